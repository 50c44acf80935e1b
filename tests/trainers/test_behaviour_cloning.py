import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from agentgym.errors import ConfigError, TrainingError
from agentgym.models.tiny import tiny_model
from agentgym.rows import as_rows
from agentgym.trainers.behaviour_cloning import BehaviourCloningConfig, BehaviourCloningTrainer
from agentgym.types import Source

QUICK = BehaviourCloningConfig(learning_rate=1e-3, batch_size=6, micro_batch_tokens=4096)


def make(**settings: Any) -> BehaviourCloningTrainer:
    return BehaviourCloningTrainer(*tiny_model(0), dataclasses.replace(QUICK, **settings))


def gradient(trainer: BehaviourCloningTrainer, episodes: Any) -> torch.Tensor:
    """The summed gradient of one optimiser step over all episodes."""
    trainer.start(episodes)
    assert trainer.planned_steps == 1
    with trainer._training_mode():
        trainer._accumulate(trainer._plan[0])
    return torch.cat([g.flatten() for g in trainer.optimiser.gradients()])


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "constant"])
def test_how_a_step_is_cut_does_not_change_it(reduction: Any, episodes: Any) -> None:
    """Micro-batches, padding, shared prefixes: the same gradient up to rounding."""
    # Rows of different lengths and of 1 to 3 turns, so that the reductions differ.
    data = [*episodes(2, turns=1), *episodes(2, turns=2, seed=1), *episodes(2, turns=3, seed=2)]
    settings = {"reduction": reduction, "share_prefix": False}
    whole = gradient(make(**settings), data)
    for change in (
        {"micro_batch_tokens": 1},  # every row alone: no padding
        {"micro_batch_tokens": 130},
        {"share_prefix": True},
        {"share_prefix": True, "micro_batch_tokens": 130},
        {"gradient_checkpointing": True},
    ):
        other = gradient(make(**{**settings, **change}), data)
        torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-5, msg=str(change))


def test_reductions_differ(episodes: Any) -> None:
    data = [*episodes(3, turns=1), *episodes(3, turns=3, seed=2)]
    token, sequence = (
        gradient(make(reduction=name), data) for name in ("token_mean", "sequence_mean")
    )
    assert (token - sequence).abs().max() > 1e-3


def test_the_loss_is_the_mean_over_action_tokens(episodes: Any) -> None:
    """Against a plain computation with all logits, row by row."""
    data = episodes(5, turns=3)
    trainer = make()
    trainer.start(data)
    model = tiny_model(0)[0]
    losses = []
    for row in as_rows(data):
        ids = torch.from_numpy(row.ids).long()
        logprobs = torch.log_softmax(model(input_ids=ids[None]).logits[0], -1)
        places = torch.from_numpy(row.mask).nonzero()[:, 0]
        losses += [-logprobs[i - 1, ids[i]] for i in places]
    assert len(losses) == 5 * 3 * 2
    assert trainer.step()["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_what_is_trained_on(episodes: Any) -> None:
    good, bad = episodes(3), episodes(2, seed=1, outcome=0.0)
    broken = episodes(2, seed=2, outcome=None)
    (one,) = episodes(1, seed=3)
    turns = (dataclasses.replace(one.turns[0], parsed=False), one.turns[1])
    mumbled = dataclasses.replace(one, turns=turns)
    everything = [*good, *bad, *broken, mumbled]

    def counts(**settings: Any) -> dict[str, float]:
        trainer = make(**settings)
        trainer.start(everything)
        return trainer.metrics()

    seen = counts()
    assert (seen["trajectories"], seen["unscored"], seen["trained_trajectories"]) == (8, 2, 6)
    assert seen["action_tokens"] == 5 * 4 + 2, "four tokens an episode, but two of the mumbled"
    assert counts(min_outcome=1.0)["trained_trajectories"] == 4
    assert counts(train_unscored=True)["trained_trajectories"] == 8
    assert counts(skip_unparsed=False)["action_tokens"] == 6 * 4
    assert counts(rows="per_turn")["rows"] == 5 * 2 + 1
    assert counts(rows="per_turn")["action_tokens"] == seen["action_tokens"]


def test_turns_without_tokens_are_counted(episodes: Any) -> None:
    (one,) = episodes(1)
    silent = dataclasses.replace(
        one, turns=(one.turns[0], dataclasses.replace(one.turns[1], action_ids=None))
    )
    trainer = make()
    trainer.start([silent])
    assert trainer.metrics()["untrainable_turns"] == 1
    assert trainer.metrics()["action_tokens"] == 2


def test_learning_rate_warms_up_and_falls(episodes: Any) -> None:
    trainer = make(batch_size=2, warmup_steps=2, schedule="linear")
    trainer.start(episodes(8))
    rates = [trainer.step()["learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([1e-3 * f for f in (0.5 * 1, 1 * 0.75, 0.5, 0.25)])
    trainer.start(episodes(8))
    assert trainer.step()["learning_rate"] == 1e-3, "warm once for all"


def poison(trainer: BehaviourCloningTrainer, value: float) -> float:
    """Put a value into a weight; returns what was there."""
    weight = trainer.model.model.norm.weight
    old: float = weight[0].item()
    with torch.no_grad():
        weight[0] = value
    return old


def test_bad_steps_change_nothing_and_are_counted(episodes: Any) -> None:
    trainer = make(batch_size=2, max_bad_steps=3)
    trainer.start(episodes(12))
    trainer.step()
    old = poison(trainer, float("nan"))
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    assert [trainer.step()["skipped"] for _ in range(2)] == [1.0, 1.0]
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0, equal_nan=True)
    poison(trainer, old)
    assert trainer.step()["skipped"] == 0.0
    metrics = trainer.metrics()
    assert (metrics["steps"], metrics["skipped_steps"]) == (4.0, 2.0)
    assert metrics["loss"] < 10, "means are over the good steps"


def test_too_many_bad_steps_in_a_row_stop_training(episodes: Any) -> None:
    trainer = make(batch_size=2, max_bad_steps=3)
    trainer.start(episodes(12))
    poison(trainer, float("inf"))
    trainer.step()
    trainer.step()
    with pytest.raises(TrainingError, match=r"3 optimiser steps in a row .* lower learning_rate"):
        trainer.step()


def test_a_step_without_a_start(episodes: Any) -> None:
    with pytest.raises(TrainingError, match="call start"):
        make().step()


def test_another_config_cannot_go_on_inside_an_update(episodes: Any) -> None:
    trainer = make(batch_size=2)
    trainer.start(episodes(8))
    trainer.step()
    with pytest.raises(TrainingError, match=r"has 4 steps, this config makes 2"):
        make(batch_size=4).load_state_dict(trainer.state_dict())


def test_adapters_train_alone_and_merge(episodes: Any) -> None:
    trainer = make(lora_rank=4, learning_rate=1e-2, epochs=4)
    frozen = {
        name: p.detach().clone()
        for name, p in trainer.model.named_parameters()
        if not p.requires_grad
    }
    trainer.update(episodes(6))
    now = dict(trainer.model.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    merged = tiny_model(0)[0]
    names = set(merged.state_dict())
    assert set(trainer.weights()) <= names, "under the base model's names"
    merged.load_state_dict(trainer.weights(), strict=False)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids).logits for m in (trainer.model, merged))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_second_trainer_keeps_the_adapters(episodes: Any) -> None:
    first = make(lora_rank=4)
    first.update(episodes(6))
    second = BehaviourCloningTrainer(
        first.model, first.tokenizer, dataclasses.replace(QUICK, lora_rank=4)
    )
    assert second.model is first.model
    assert set(second.optimiser.parameters) == set(first.optimiser.parameters)
    assert all("lora_" in name for name in second.optimiser.parameters)


@pytest.mark.parametrize(
    ("precision", "weights"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("mixed", torch.float32),
    ],
)
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_precisions(precision: Any, weights: torch.dtype, lora_rank: int, episodes: Any) -> None:
    trainer = make(
        precision=precision, lora_rank=lora_rank, learning_rate=1e-2 if lora_rank else 3e-3
    )
    assert {p.dtype for p in trainer.model.parameters()} == {weights}
    assert {t.dtype for t in trainer.optimiser.weights().values()} == {torch.float32}
    data = episodes(6)
    losses = [trainer.update(data)["loss"] for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(isinstance(loss, float) for loss in losses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"floor": 2.0}, r"floor must be in \[0, 1\]"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BehaviourCloningConfig(**settings)


def test_demonstrations_are_cloned_like_any_other(episodes: Any) -> None:
    expert = make().update(episodes(4, source=Source.EXPERT))
    own = make().update(episodes(4))
    assert expert == own


class Share:
    """What a trainer sees of `accelerate` in one of two processes."""

    num_processes = 2

    def __init__(self, process_index: int) -> None:
        self.process_index = process_index

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor


def test_the_shares_of_processes_sum_to_the_whole(episodes: Any) -> None:
    data = [*episodes(3, turns=1), *episodes(4, turns=3, seed=1)]
    whole = gradient(make(batch_size=7), data)
    parts = []
    for index in range(2):
        trainer: Any = make(batch_size=7)
        trainer.accelerator = Share(index)
        parts.append(gradient(trainer, data))
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-4, atol=1e-5)


# What each process of the test below runs; RANK and the like say which it is.
WORKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import conftest, torch
from agentgym.trainers.behaviour_cloning import BehaviourCloningConfig, BehaviourCloningTrainer
from agentgym.models.tiny import tiny_model

torch.set_num_threads(1)
make = conftest.episodes.__wrapped__()
data = [*make(3, turns=1), *make(4, turns=3, seed=1)]
config = BehaviourCloningConfig(learning_rate=1e-3, batch_size=7)
trainer = BehaviourCloningTrainer(*tiny_model(0), config)
trainer.start(data)
step = trainer.step()
trainer.save_model(sys.argv[2])
moments = [float(m.double().sum()) for m in trainer.optimiser.state_dict()["exp_avg"].values()]
print(json.dumps({"processes": trainer.accelerator.num_processes, "moments": moments, **step}))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_make_the_same_step(launch: Any, episodes: Any, tmp_path: Path) -> None:
    """Seven rows of 1 or 3 turns: unequal shares of rows and of tokens."""
    alone = make(batch_size=7)
    alone.start([*episodes(3, turns=1), *episodes(4, turns=3, seed=1)])
    step = alone.step()
    expected = alone.optimiser.state_dict()["exp_avg"].values()
    here = str(Path(__file__).parent)
    said = launch(2, lambda rank: ["-c", WORKER, here, str(tmp_path / str(rank))])
    first, second = (json.loads(text.splitlines()[-1]) for text in said)
    assert (first["processes"], second["processes"]) == (2, 2)
    assert first["loss"] == second["loss"] == pytest.approx(step["loss"], rel=1e-5)
    assert first["gradient_norm"] == pytest.approx(step["gradient_norm"], rel=1e-5)
    assert first["moments"] == second["moments"], "both go on with the same weights"
    assert first["moments"] == pytest.approx(
        [float(m.double().sum()) for m in expected], rel=1e-3, abs=1e-5
    )
    assert first["tokens"] < step["tokens"], "each did a part of the work"
    assert (tmp_path / "0").exists(), "the main process saves"
    assert not (tmp_path / "1").exists(), "and it alone"
