"""What holds for every registered trainer: it learns, it resumes exactly, it never trips."""

import dataclasses
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentgym import checkpoint, config
from agentgym.core import Trainer
from agentgym.errors import ConfigError, TrainingError
from agentgym.models.load import load_model
from agentgym.models.tiny import tiny_model
from agentgym.registry import TRAINERS
from agentgym.types import EndReason, Trajectory

QUICK = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 4, "micro_batch_tokens": 256}


CLONING = ("behaviour_cloning", "filtered_bc")
"""They learn from successes; the others from differences inside groups."""


OWN: dict[str, dict[str, Any]] = {
    "archer": {"critic_steps": 4, "actor_steps": 2, "critic_learning_rate": 1e-3}
    | {"critic_batch": 8, "max_action_tokens": 4, "score": "outcome"},
}
OWN["archer_offline"] = OWN["archer"]


def make(name: str, **settings: Any) -> Trainer:
    factory = TRAINERS.get(name)
    settings = OWN.get(name, {}) | settings
    trainer: Trainer = factory(*tiny_model(0), factory.config_class(**{**QUICK, **settings}))
    assert trainer.name == name
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.fixture(params=list(TRAINERS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def lessons(name: str, episodes: Any) -> Any:
    """Episodes that the trainer learns from: successes, or pairs of a success and a failure."""
    return lessons_of(name, episodes)


def lessons_of(name: str, episodes: Any) -> Any:
    """As the fixture, without pytest."""

    def make_lessons(count: int, **kwargs: Any) -> list[Trajectory]:
        made: list[Trajectory] = episodes(count, **kwargs)
        if name in CLONING or kwargs.get("outcome", 1.0) is None:
            return made
        if name == "remax":  # the greedy episode of each task fares the other way
            made += [dataclasses.replace(t, metadata={"greedy": True}) for t in made]
            return [
                dataclasses.replace(t, outcome=float(i % 2 != bool(t.metadata)))
                for i, t in enumerate(made)
            ]
        return [
            dataclasses.replace(t, group_id=f"pair {i // 2}", outcome=float(i % 2))
            for i, t in enumerate(made)
        ]

    return make_lessons


def test_the_registry_is_filled() -> None:
    assert {"behaviour_cloning", "filtered_bc"} <= set(TRAINERS)
    assert all(TRAINERS.doc(name) for name in TRAINERS)


NAN = math.nan
DIFFERENCES: dict[str, dict[str, tuple[Any, Any]]] = {
    "grpo": {
        "reduction": ("sequence_mean", "token_mean"),
        "kl_coefficient": (0.04, 0.001),
        "singleton": (0.0, NAN),
    },
    "dr_grpo": {},
    "loop": {"reciprocal_clip": (False, True), "max_grad_norm": (1.0, 0.1)},
    "gigpo": {"average_over": ("episodes", "turns"), "singleton": (0.0, NAN)},
    "archer": {"summed_parts": (1, 32), "warmup_updates": (0, 20)},
    "archer_offline": {"weight_limit": (20.0, 0.0)},
}
"""What the paper and the released code do, of every method that has both."""


def test_variants_differ_where_they_say(name: str) -> None:
    made = TRAINERS.get(name).config_class
    if name not in DIFFERENCES:
        with pytest.raises(ConfigError, match="variant"):
            config.load(made, {"variant": "released"})
        return
    paper, released = (config.load(made, {"variant": v}) for v in ("paper", "released"))
    assert config.load(made) == paper, "the paper's is the default"
    pairs = {f.name: (getattr(paper, f.name), getattr(released, f.name)) for f in fields(made)}
    del pairs["variant"]
    found = {key: repr(pair) for key, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}
    assert found == {key: repr(pair) for key, pair in DIFFERENCES[name].items()}
    told = config.field_docs(made)["variant"]
    assert all(f"`{key}`" in told for key in found), "each is in the docstring"


def test_the_loss_falls_on_a_fixed_batch(name: str, lessons: Any) -> None:
    if name in (
        "archer",
        "archer_offline",
    ):  # its loss is a moving target's: over several updates the critic fits
        trainer = make(name, critic_steps=10, actor_steps=0)
        metrics = trainer.update(lessons(12))
        first = metrics["critic_loss"]
        for _ in range(3):
            metrics = trainer.update(lessons(12))
        assert metrics["critic_loss"] < 0.5 * first
    elif name in CLONING:
        metrics = make(name, epochs=12).update(lessons(12))
        assert metrics["steps"] == 36.0, "12 rows in batches of 4, 12 times"
        assert metrics["last_loss"] < 0.5 * metrics["first_loss"]
    else:  # a policy gradient's loss is no likelihood: over whole groups it begins at 0
        metrics = make(name, epochs=12, batch_size=12).update(lessons(12))
        assert metrics["steps"] == 12.0
        assert metrics["last_loss"] < metrics["first_loss"] - 0.005
    assert all(isinstance(v, float) and math.isfinite(v) for v in metrics.values())


def test_an_update_is_start_and_steps(name: str, lessons: Any) -> None:
    whole, stepped = make(name), make(name)
    metrics = whole.update(lessons(10))
    before = weights(stepped)
    stepped.start(lessons(10))
    assert equal(before, weights(stepped)), "start changes no weight"
    seen = 0
    while not stepped.done:
        assert stepped.position == seen
        assert {"loss", "gradient_norm", "learning_rate"} <= set(stepped.step())
        seen += 1
    assert (seen, stepped.position) == (stepped.planned_steps, stepped.planned_steps)
    assert stepped.metrics() == metrics
    assert equal(weights(whole), weights(stepped))


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_resume_inside_an_update_is_exact(
    name: str, lora_rank: int, lessons: Any, tmp_path: Path
) -> None:
    """Two updates of 6 steps straight, and cut after 2 steps of the second through the disk."""
    settings = {"lora_rank": lora_rank, "lora_dropout": 0.1, "schedule": "cosine"}
    straight, cut = make(name, **settings), make(name, **settings)
    for trainer in (straight, cut):
        trainer.update(lessons(10))
        trainer.start(lessons(12, seed=1))
        trainer.step()
        trainer.step()
    checkpoint.save(tmp_path, 1, cut.state_dict())
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    torch.manual_seed(123)  # a new process has other random states
    resumed = make(name, **settings)
    resumed.load_state_dict(saved.state)
    assert (resumed.position, resumed.planned_steps) == (2, 6)
    for _ in range(4):
        assert resumed.step() == straight.step()
    assert resumed.done
    assert resumed.metrics() == straight.metrics()
    assert equal(weights(resumed), weights(straight))
    # And the next update is the same too.
    assert resumed.update(lessons(4, seed=2)) == straight.update(lessons(4, seed=2))
    assert equal(weights(resumed), weights(straight))


def test_nothing_to_learn_from_is_no_update(name: str, lessons: Any) -> None:
    trainer = make(name)
    before = weights(trainer)
    for nothing in (lessons(0), lessons(3, outcome=None)):
        metrics = trainer.update(nothing)
        assert metrics["steps"] == 0.0
        assert metrics["trained_trajectories"] == 0.0
        assert metrics["unscored"] == len(nothing)
    assert equal(before, weights(trainer))
    assert trainer.update(lessons(4))["steps"] == 2.0, "and training goes on after"


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_saved_model_is_the_trained_one(
    name: str, lora_rank: int, lessons: Any, tmp_path: Path
) -> None:
    trainer = make(name, lora_rank=lora_rank)
    trainer.update(lessons(8))
    trainer.save_model(tmp_path / "model")
    loaded = load_model(tmp_path / "model", dtype="float32", device="cpu")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids).logits for m in (trainer.model, loaded.model))
        start = tiny_model(0)[0](input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    assert (ours - start).abs().max() > 1e-2, "the model has changed at all"
    assert loaded.tokenizer.decode([40, 41]) == tiny_model(0)[1].decode([40, 41])


def test_the_model_is_left_as_it_was_lent(name: str, lessons: Any) -> None:
    trainer = make(name, lora_rank=2, lora_dropout=0.1)
    trainer.model.train(False)
    state = torch.get_rng_state()
    trainer.update(lessons(4))
    assert not trainer.model.training
    assert torch.equal(torch.get_rng_state(), state), "random draws of others are undisturbed"


# -- bad input ----------------------------------------------------------------------------------


def finite(metrics: dict[str, float]) -> bool:
    return all(isinstance(v, float) and math.isfinite(v) for v in metrics.values())


@pytest.mark.parametrize(("count", "turns"), [(4, 1), (2, 200)])
def test_short_and_long_episodes_are_learned_from(
    name: str, count: int, turns: int, lessons: Any
) -> None:
    quick = {"critic_steps": 1, "actor_steps": 1} if name.startswith("archer") else {}
    trainer = make(name, epochs=1, micro_batch_tokens=4096, **quick)
    before = weights(trainer)
    metrics = trainer.update(lessons(count, turns=turns))
    assert metrics["skipped_steps"] == 0
    assert finite(metrics)
    assert not equal(before, weights(trainer))


@pytest.mark.parametrize("end", [EndReason.TURN_LIMIT, EndReason.TOKEN_LIMIT])
@pytest.mark.parametrize("known", [True, False])
def test_cut_episodes_are_learned_from(
    name: str, end: EndReason, known: bool, lessons: Any
) -> None:
    """Whether or not the context that came next is on record; scored like any other."""
    led = np.arange(3, 50, dtype=np.int32) if known else None
    cut = [dataclasses.replace(t, end=end, final_prompt_ids=led) for t in lessons(6, turns=2)]
    trainer = make(name)
    metrics = trainer.update(cut)
    assert metrics["trained_trajectories"] > 0
    assert metrics["steps"] > 0
    assert finite(metrics)
    if "dropped_turns" in metrics:
        assert metrics["dropped_turns"] == (0 if known else 6)
    if "guessed_bootstraps" in metrics:
        assert metrics["guessed_bootstraps"] == (0 if known else 6)


def test_unscored_episodes_are_in_no_baseline_and_counted(name: str, lessons: Any) -> None:
    """The update is that of the scored ones alone."""
    scored = lessons(4)
    unscored = [
        dataclasses.replace(t, id=f"broken {t.id}", outcome=None, end=EndReason.ENV_ERROR)
        for t in scored
    ]
    alone, mixed = make(name), make(name)
    wanted, found = alone.update(scored), mixed.update([*scored, *unscored])
    sampled = [t for t in unscored if not t.metadata.get("greedy")]
    assert found["unscored"] == len(sampled)
    assert found["trained_trajectories"] == wanted["trained_trajectories"]
    assert equal(weights(alone), weights(mixed))


def test_equal_groups_are_counted_and_break_nothing(name: str, lessons: Any) -> None:
    equal_scores = [dataclasses.replace(t, outcome=1.0) for t in lessons(6)]
    trainer = make(name)
    before = weights(trainer)
    metrics = trainer.update(equal_scores)
    assert finite(metrics)
    if name in CLONING:
        assert metrics["steps"] > 0
        return
    if name != "remax":  # its greedy episodes share the groups' names, and are no members
        assert metrics["dead_group_share"] == 1.0
    if name not in ("ppo", "archer", "archer_offline"):  # a critic may still tell turns apart
        assert metrics["steps"] == 0
        assert equal(before, weights(trainer)), "nothing to learn from groups of equal scores"


def test_weights_that_are_not_finite_are_skipped_or_stopped(name: str, lessons: Any) -> None:
    """No step is taken on such a gradient; it is counted, and several in a row end training."""
    trainer: Any = make(name, max_bad_steps=100)
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = float("nan")
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    metrics = trainer.update(lessons(6))
    for parameter_name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(
            parameter, before[parameter_name], rtol=0, atol=0, equal_nan=True
        )
    assert metrics["skipped_steps"] + metrics.get("unanswered", 0.0) > 0
    if name == "archer":  # a policy that cannot act has no gradient at all
        assert metrics["steps"] == 0
        return
    stopping = make(name, max_bad_steps=2)
    with torch.no_grad():
        stopping.model.model.norm.weight[0] = float("nan")
    with pytest.raises(TrainingError, match=r"2 .*steps in a row"):
        list(map(stopping.update, [lessons(6)] * 3))


# -- one update, however it is cut --------------------------------------------------------------

ONE_STEP: dict[str, Any] = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-4}
ONE_STEP_OF: dict[str, dict[str, Any]] = {
    "archer": {"critic_steps": 1, "actor_steps": 1, "critic_batch": 12, "token_baseline": True},
    "archer_offline": {"critic_steps": 1, "actor_steps": 1, "critic_batch": 12},
}


def moments(name: str, episodes: Any, **settings: Any) -> dict[str, list[float]]:
    """What the optimisers gather in an update of one step each, and what the metrics say."""
    settings = {**ONE_STEP, **ONE_STEP_OF.get(name, {}), **settings}
    trainer: Any = make(name, **settings)
    # rows of unlike lengths, so that shares and micro-batches are unequal
    data = [
        *lessons_of(name, episodes)(4, turns=1),
        *lessons_of(name, episodes)(4, turns=3, seed=1),
    ]
    trainer.update([dataclasses.replace(t, group_id=f"pair {i // 2}") for i, t in enumerate(data)])
    found = {}
    for part in ("optimiser", "critic_optimiser", "baseline_optimiser"):
        if hasattr(trainer, part):
            state = getattr(trainer, part).state_dict()["exp_avg"]
            found[part] = torch.cat([state[key].flatten() for key in sorted(state)]).tolist()
    return found


def assert_equal_moments(found: Any, wanted: Any, what: str) -> None:
    assert set(found) == set(wanted)
    for part, values in wanted.items():
        ours, theirs = torch.tensor(found[part]), torch.tensor(values)
        assert theirs.abs().max() > 1e-6, f"{what}: {part} has a gradient"
        torch.testing.assert_close(
            ours, theirs, rtol=2e-3, atol=1e-5 * float(theirs.abs().max()), msg=f"{what}: {part}"
        )


def test_how_an_update_is_cut_does_not_change_it(name: str, episodes: Any) -> None:
    """Micro-batches, shared prefixes and checkpointed activations: the same gradients."""
    whole = moments(name, episodes, micro_batch_tokens=4096, share_prefix=False)
    for change in (
        {"micro_batch_tokens": 1},
        {"micro_batch_tokens": 130, "share_prefix": True},
        {"gradient_checkpointing": True},
    ):
        assert_equal_moments(moments(name, episodes, **change), whole, f"{name}, {change}")


@pytest.mark.parametrize("precision", ["mixed", "bfloat16"])
def test_lower_precision_trains(name: str, precision: str, lessons: Any) -> None:
    trainer: Any = make(name, precision=precision)
    before = weights(trainer)
    metrics = trainer.update(lessons(8))
    assert math.isfinite(metrics["loss"])
    assert metrics["skipped_steps"] == 0
    assert not equal(before, weights(trainer))
    assert {w.dtype for w in trainer.optimiser.weights().values()} == {torch.float32}


# What each process of the test below runs; RANK and the like say which it is.
WORKER = """
import json, sys
sys.path[:0] = [sys.argv[1]]
import conftest, torch, test_contract
from agentgym.registry import TRAINERS

torch.set_num_threads(1)
episodes = conftest.episodes.__wrapped__()
found = {name: test_contract.moments(name, episodes) for name in TRAINERS}
with open(sys.argv[2], "w") as file:
    json.dump(found, file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_make_the_same_update(launch: Any, episodes: Any, tmp_path: Path) -> None:
    """Of every trainer: each process does its share, and both go on with the same weights."""
    here = str(Path(__file__).parent)
    launch(2, lambda rank: ["-c", WORKER, here, str(tmp_path / str(rank))])
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert set(first) == set(second) == set(TRAINERS)
    assert first == second
    for name, found in first.items():
        assert_equal_moments(found, moments(name, episodes), name)
