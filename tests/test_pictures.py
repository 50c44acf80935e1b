"""Screenshots to prompts, answers, rows and weights, end to end, with tiny models that see."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from typer.testing import CliRunner

from agentgym import checkpoint
from agentgym.chat import ChatFormat, ContextConfig, Conversation
from agentgym.cli import app
from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import ConfigError
from agentgym.images import decode_image, encode_image
from agentgym.inference.hf import HFBackend
from agentgym.models.load import LoadedModel, load_model
from agentgym.models.tiny_vlm import TINY_VLMS
from agentgym.progress import Progress
from agentgym.recipe import load_recipe
from agentgym.registry import TRAINERS
from agentgym.run import Run
from agentgym.store import TrajectoryStore
from agentgym.types import EndReason, Image, Source, Task, Trajectory, Turn

QUICK = {"learning_rate": 3e-3, "batch_size": 4, "micro_batch_tokens": 512, "epochs": 2}
SAID = {"light": "up", "dark": "go"}


@pytest.fixture(params=TINY_VLMS)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(request.param, dtype="float32", device="cpu")


def screen(kind: str, number: int) -> Image:
    """Light or dark noise: the only thing that tells which answer is right."""
    rng = np.random.default_rng(number)
    low = 150 if kind == "light" else 0
    return encode_image(rng.integers(low, low + 100, (32, 48, 3), dtype=np.uint8))


def episode(
    loaded: LoadedModel,
    number: int,
    turns: int = 2,
    *,
    right: bool = True,
    config: ContextConfig | None = None,
    **fields: Any,
) -> Trajectory:
    """Each turn shows a screen, whose answer is recorded as a demonstration."""
    chat = ChatFormat(loaded.tokenizer, loaded.vision)
    conversation = Conversation(chat, "S", config or ContextConfig())
    made = []
    for index in range(turns):
        kind = ("light", "dark")[(number + index) % 2]
        image = screen(kind, 10 * number + index)
        conversation.observe({"goal": "G", "text": "?", "error": ""}, image)
        prompt = conversation.prompt()
        other = {"light": "dark", "dark": "light"}[kind]
        said = SAID[kind if right else other]
        ids = chat.answer(said)
        conversation.reply(said, ids)
        made.append(
            Turn(
                "?",
                prompt.ids,
                prompt.extends,
                ids,
                said,
                image=image,
                prompt_images=prompt.images,
            )
        )
    given = {"end": EndReason.SUCCESS, "outcome": 1.0, **fields}
    return Trajectory(f"{number}", Task("agentgym/x-v0", number), tuple(made), **given)


def make(loaded: LoadedModel, name: str = "behaviour_cloning", **settings: Any) -> Any:
    factory = TRAINERS.get(name)
    config = factory.config_class(**{**QUICK, **settings})
    trainer = factory(loaded.model, loaded.tokenizer, config)
    trainer.see_with(loaded.vision)
    return trainer


def own_forward(loaded: LoadedModel, ids: Any, images: Sequence[Image]) -> Any:
    """Log-probabilities (L, V) by the model's own forward pass on its processor's inputs."""
    assert loaded.vision is not None
    pictures = [Pillow.fromarray(decode_image(image.data or b"")) for image in images]
    text = loaded.vision.image_token * len(images)
    inputs = loaded.vision.processor(images=[pictures], text=[text], return_tensors="pt")
    tokens = torch.as_tensor(ids[None], dtype=torch.long)
    inputs["input_ids"], inputs["attention_mask"] = tokens, torch.ones_like(tokens)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (tokens == loaded.vision.image_token_id).int()
    untyped: Any = loaded.model
    return untyped(**inputs).logits[0].log_softmax(-1)


def gradients(trainer: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def loss_of(trainer: Any, lessons: Sequence[Trajectory], groups: Sequence[Sequence[int]]) -> None:
    """Gradients of one step over all rows, cut into the given micro-batches."""
    trainer.model.zero_grad()
    trainer.start(lessons)
    counts = {
        "total_tokens": sum(row.action_tokens for row in trainer._rows),
        "total_rows": len(trainer._rows),
    }
    for group in groups:
        trainer._loss(tuple(group), counts).backward()


def test_rows_score_as_the_models_own_forward_does(loaded: LoadedModel) -> None:
    trainer = make(loaded)
    lessons = [episode(loaded, 0), episode(loaded, 1, turns=3)]
    trainer.start(lessons)
    with torch.no_grad():
        found, mask = trainer._logprobs((0, 1))
    sampled = [turn.action_ids for lesson in lessons for turn in lesson.turns]
    assert int(mask.sum()) == sum(len(ids) for ids in sampled if ids is not None)
    expected = []
    for row in trainer._rows:
        with torch.no_grad():
            scores = own_forward(loaded, row.ids, [image for _, image in row.images])
        places = np.flatnonzero(row.mask)
        expected += scores[places - 1, row.ids[places]].tolist()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_what_was_sampled_is_scored_the_same_in_training(loaded: LoadedModel) -> None:
    shown = episode(loaded, 0, turns=1)
    turn = shown.turns[0]
    backend = HFBackend(loaded)
    request = GenerationRequest(
        turn.prompt_ids, SamplingParams(max_tokens=5), 3, images=turn.prompt_images
    )
    (answer,) = backend.generate([request])
    assert answer.logprobs is not None
    sampled = replace(turn, action_ids=answer.token_ids, logprobs=answer.logprobs)
    trainer = make(loaded)
    trainer.start([replace(shown, turns=(sampled,))])
    with torch.no_grad():
        found, _ = trainer._logprobs((0,))
    np.testing.assert_allclose(found.numpy(), answer.logprobs, atol=1e-4)


def test_gradients_are_those_of_the_models_own_forward(loaded: LoadedModel) -> None:
    """Of the tower too; and whatever the micro-batches."""
    trainer = make(loaded, train_vision=True)
    lessons = [episode(loaded, n, turns=n % 2 + 1) for n in range(3)]
    loss_of(trainer, lessons, [(0, 1, 2)])
    together = gradients(trainer)
    loss_of(trainer, lessons, [(2,), (0, 1)])
    apart = gradients(trainer)
    trainer.model.zero_grad()
    total = sum(row.action_tokens for row in trainer._rows)
    for row in trainer._rows:
        scores = own_forward(loaded, row.ids, [image for _, image in row.images])
        places = np.flatnonzero(row.mask)
        (-scores[places - 1, row.ids[places]].sum() / total).backward()
    expected = gradients(trainer)
    assert set(together) == set(apart) == set(expected)
    assert any("vis" in name for name in expected)
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(1e-3)
        assert (together[name] - gradient).abs().max() < 1e-3 * scale, name
        assert (apart[name] - gradient).abs().max() < 1e-3 * scale, name


def test_tokens_that_were_not_sampled_have_no_gradient(loaded: LoadedModel) -> None:
    """A text after the last answer changes nothing, and what is not trained on is context."""
    trainer = make(loaded)
    shown = episode(loaded, 0, turns=2)
    loss_of(trainer, [shown], [(0,)])
    expected = gradients(trainer)
    unparsed = replace(
        shown.turns[1], extends=True, parsed=False, prompt_images=(screen("dark", 99),)
    )
    assert loaded.vision is not None
    ids = np.concatenate([[40], loaded.vision.ids(screen("dark", 99)), [41]]).astype(np.int32)
    longer = replace(shown, turns=(*shown.turns, replace(unparsed, prompt_ids=ids)))
    loss_of(trainer, [longer], [(0,)])
    found = gradients(trainer)
    assert len(trainer._rows[0].images) == 2
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_eyes_stand_still_unless_told(loaded: LoadedModel) -> None:
    lessons = [episode(loaded, n) for n in range(4)]
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    trainer = make(loaded)
    trainer.update(lessons)
    moved = {n for n, p in loaded.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not any("vis" in name or "connector" in name for name in moved)
    assert trainer._sights.runs == len({t.image for e in lessons for t in e.turns})


def test_only_the_picture_tells_what_to_answer_and_cloning_learns_it(loaded: LoadedModel) -> None:
    trainer = make(loaded, epochs=12, train_vision=True)
    metrics = trainer.update([episode(loaded, n) for n in range(12)])
    assert metrics["last_loss"] < 0.3 * metrics["first_loss"]
    backend = HFBackend(loaded)
    told = [episode(loaded, 50 + n, turns=1).turns[0] for n in range(8)]
    answers = backend.generate(
        [
            GenerationRequest(
                turn.prompt_ids,
                SamplingParams(temperature=0.0, max_tokens=4),
                images=turn.prompt_images,
            )
            for turn in told
        ]
    )
    assert sum(a.text == turn.text for a, turn in zip(answers, told, strict=True)) >= 7


@pytest.mark.parametrize("name", ["reinforce", "rloo", "grpo"])
def test_policy_gradients_raise_what_went_better(loaded: LoadedModel, name: str) -> None:
    """Both answers to the same screens; the right one is worth more."""
    lessons = []
    for number in range(4):
        for right in (True, False):
            made = episode(loaded, number, right=right, outcome=float(right))
            fields = {"id": f"{number}-{right}", "group_id": str(number), "source": Source.POLICY}
            lessons.append(replace(made, **fields))  # type: ignore[arg-type]
    trainer = make(loaded, name, learning_rate=1e-3, epochs=1, batch_size=16)
    trainer.start(lessons)

    def preference() -> float:
        found = trainer._scored_now()
        sums = [float(values.sum()) for values in found]
        signs = [1 if lessons[row.trajectory].outcome else -1 for row in trainer._rows]
        return float(np.dot(sums, signs))

    before = preference()
    while not trainer.done:
        trainer.step()
    assert preference() > before


def test_a_cut_update_with_pictures_goes_on_exactly(loaded: LoadedModel, tmp_path: Path) -> None:
    lessons = [episode(loaded, n) for n in range(6)]
    whole = make(loaded)
    whole.update(lessons)
    expected = {n: p.detach().clone() for n, p in whole.model.named_parameters()}
    first = make(load_model(loaded.name, dtype="float32", device="cpu"))
    first.start(lessons)
    first.step()
    checkpoint.save(tmp_path, 1, {"trainer": first.state_dict()})
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    second = make(load_model(loaded.name, dtype="float32", device="cpu"))
    second.load_state_dict(saved.state["trainer"])
    while not second.done:
        second.step()
    for name, parameter in second.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_adapters_are_on_the_text_and_come_back(loaded: LoadedModel, tmp_path: Path) -> None:
    trainer = make(loaded, lora_rank=2, lora_alpha=4, learning_rate=1e-2)
    assert not any("vis" in n or "connector" in n for n in trainer.optimiser.parameters)
    trainer.update([episode(loaded, n) for n in range(4)])
    trainer.save_model(tmp_path / "model")
    again = load_model(tmp_path / "model", dtype="float32", device="cpu")
    assert again.vision is not None
    turn = episode(loaded, 7, turns=1).turns[0]
    assert turn.action_ids is not None
    texts = [np.concatenate([turn.prompt_ids, turn.action_ids])]
    start, images = [len(turn.prompt_ids)], [turn.prompt_images]
    (merged,) = HFBackend(again).logprobs(texts, start, images=images)
    beside = HFBackend(trainer.model, loaded.tokenizer, vision=loaded.vision)
    (adapted,) = beside.logprobs(texts, start, images=images)
    np.testing.assert_allclose(merged, adapted, atol=1e-3)
    fresh = HFBackend(load_model(loaded.name, dtype="float32", device="cpu"))
    (before,) = fresh.logprobs(texts, start, images=images)
    assert np.abs(merged - before).max() > 1e-2


def test_pictures_are_never_left_out_silently(loaded: LoadedModel) -> None:
    lessons = [replace(episode(loaded, n), group_id="g", outcome=float(n % 2)) for n in range(2)]
    factory = TRAINERS.get("behaviour_cloning")
    blind = factory(loaded.model, loaded.tokenizer)
    with pytest.raises(ConfigError, match="call see_with"):
        blind.start(lessons)
    for name in ("ppo", "archer"):
        with pytest.raises(ConfigError, match="reads no pictures yet"):
            make(loaded, name).start(lessons)


def test_only_the_newest_screen_in_every_row(loaded: LoadedModel) -> None:
    """Rewritten contexts make rows of their own, each with the pictures that it showed."""
    config = ContextConfig(screenshots=1)
    trainer = make(loaded)
    trainer.start([episode(loaded, 0, turns=3, config=config)])
    assert [len(row.images) for row in trainer._rows] == [1, 1, 1]
    with torch.no_grad():
        found, _ = trainer._logprobs((0, 1, 2))
    expected = []
    for row in trainer._rows:
        with torch.no_grad():
            scores = own_forward(loaded, row.ids, [image for _, image in row.images])
        places = np.flatnonzero(row.mask)
        expected += scores[places - 1, row.ids[places]].tolist()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


RECIPE = """
name = "seer"
trainer = "behaviour_cloning"
backend = "BACKEND"
demonstrations = 2
iterations = 1
episodes_per_task = 2
[model]
name = "MODEL"
dtype = "float32"
device = "cpu"
[tasks]
env_ids = ["agentgym/miniwob.click-test-v0"]
[env]
images = true
[context]
max_tokens = 4000
screenshots = 2
[sampling]
max_tokens = 8
[rollout]
num_envs = 2
max_turns = 3
[warm_start]
learning_rate = 1e-3
[train]
learning_rate = 1e-3
skip_unparsed = false
[evaluation]
episodes_per_task = 1
"""


@pytest.mark.browser
@pytest.mark.parametrize(("model", "backend"), [("tiny-vlm", "hf"), ("tiny-vlm-mrope", "engine")])
def test_screenshots_of_web_pages_are_learned_from(
    model: str, backend: str, tmp_path: Path
) -> None:
    """`agentgym train`, `eval` and `rollout` with a model that sees the page."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("MODEL", model).replace("BACKEND", backend))
    run = tmp_path / "run"
    with Progress(quiet=True) as progress:
        summary = Run.start(load_recipe(str(recipe)), run, progress).execute()
    assert summary["finished"]
    with TrajectoryStore(run / "trajectories", read_only=True) as store:
        episodes = list(store)
        own = [t for t in episodes if t.source is Source.POLICY]
        assert {t.end for t in own} <= {EndReason.TURN_LIMIT, EndReason.SUCCESS, EndReason.FAILURE}
        vision = load_model(run / "model", device="cpu").vision
        assert vision is not None
        for turn in (turn for t in episodes for turn in t.turns):
            assert turn.image is not None
            assert 1 <= len(turn.prompt_images) <= 2
            assert turn.prompt_images[-1] == turn.image
        last = store.with_pictures(own[-1]).turns[-1]
        assert len(last.prompt_images) == 2
        assert not last.extends
        vision.locate(last.prompt_ids, [vision.read(image) for image in last.prompt_images])
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = {row["phase"]: row for row in metrics if "update_action_tokens" in row}
    for phase in ("warm-start", "update-1"):
        assert trained[phase]["update_steps"] > 0
        assert trained[phase]["update_skipped_steps"] == 0
    same = ["--episodes", "1", "--backend", backend]
    rollout = ["rollout", "miniwob.click-test-v0", "--policy", "model", "--model", str(run)]
    for command in (["eval", str(run)], [*rollout, "--env", "images=true"]):
        folder = tmp_path / command[0]
        done = CliRunner().invoke(app, [*command, *same, "--store", str(folder)])
        assert done.exit_code == 0, done.output
        with TrajectoryStore(folder, read_only=True) as store:
            (played,) = store
        assert played.turns[0].prompt_images == (played.turns[0].image,)
