import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from agentgym import optim
from agentgym.optim import MasterAdamW, decay_factor, warmup_factor


def parameter(*values: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def matrix(*values: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor([values], dtype=dtype))


def set_gradient(parameter: nn.Parameter, *values: float) -> None:
    parameter.grad = torch.tensor(values, dtype=parameter.dtype).reshape(parameter.shape)


def test_schedules_by_hand() -> None:
    assert [warmup_factor(step, 0) for step in (0, 5)] == [1.0, 1.0]
    assert [decay_factor(step, 4, "linear", floor=0.2) for step in (0, 2, 4, 9)] == pytest.approx(
        [1.0, 0.6, 0.2, 0.2]
    )
    # cos(0) = 1, cos(pi / 3) = 1/2, cos(pi) = -1
    assert [decay_factor(step, 3, "cosine") for step in (0, 1, 3)] == pytest.approx([1, 0.75, 0])
    assert decay_factor(7, 4, "constant") == 1.0
    with pytest.raises(ValueError, match="'step'"):
        decay_factor(0, 1, "step")  # type: ignore[arg-type]


def test_first_step_by_hand() -> None:
    """Adam's first update is the learning rate times the gradient's sign."""
    weight = matrix(1.0, -2.0)
    optimiser = MasterAdamW([("w", weight)])
    set_gradient(weight, 3.0, -4.0)
    report = optimiser.step(0.1)
    assert weight.tolist()[0] == pytest.approx([0.9, -1.9], abs=1e-6)
    assert report.gradient_norm == pytest.approx(5.0)
    assert not report.skipped
    assert weight.grad is None


def test_decay_is_for_matrices_only() -> None:
    weight, gain = matrix(1.0), parameter(1.0)
    optimiser = MasterAdamW([("w", weight), ("g", gain)], weight_decay=0.5)
    optimiser.step(0.1)  # no gradient at all: only decay, 1 - 0.1 * 0.5
    assert weight.item() == pytest.approx(0.95)
    assert gain.item() == 1.0


def test_clipping_by_hand() -> None:
    """A gradient of norm 5 clipped to 0.5 becomes a tenth; Adam's first moment tells."""
    weight = matrix(0.0, 0.0)
    optimiser = MasterAdamW([("w", weight)], betas=(0.9, 0.999))
    set_gradient(weight, 3.0, 4.0)
    assert optimiser.step(0.1, max_norm=0.5).gradient_norm == pytest.approx(5.0)
    first = optimiser.state_dict()["exp_avg"]["w"]
    assert first[0].tolist() == pytest.approx([0.03, 0.04], rel=1e-4)


def test_small_updates_of_bfloat16_weights_are_not_lost() -> None:
    """100 updates of 1e-4 at 1.0, where bfloat16 knows nothing between 1 and 1 - 2**-8."""
    ours, plain = matrix(1.0, dtype=torch.bfloat16), matrix(1.0, dtype=torch.bfloat16)
    optimiser = MasterAdamW([("w", ours)])
    adamw = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        for weight in (ours, plain):
            set_gradient(weight, 1.0)
        optimiser.collect()
        optimiser.step(1e-4)
        adamw.step()
    assert optimiser.weights()["w"].item() == pytest.approx(0.99, abs=1e-4)
    assert ours.item() == pytest.approx(0.99, abs=2**-8)
    assert plain.item() == 1.0, "the reason for float32 copies"


def test_gradients_are_summed_in_float32() -> None:
    """1 + 64 * 2**-9 is 1.125; in bfloat16 every 2**-9 beside 1 is rounded away."""
    weight = matrix(0.0, dtype=torch.bfloat16)
    optimiser = MasterAdamW([("w", weight)])
    for value in [1.0, *[2.0**-9] * 64]:
        set_gradient(weight, value)
        optimiser.collect()
        assert weight.grad is None
    assert optimiser.gradients()[0].item() == 1.125


def test_one_backward_pass_needs_no_float32_gradients_and_steps_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optim, "CHUNK_WEIGHTS", 3)
    values = [(1.0, -2.0), (0.5, 3.0), (-1.0, 0.25)]
    made = []
    for collected in (False, True):
        weights = [matrix(*pair, dtype=torch.bfloat16) for pair in values]
        optimiser = MasterAdamW((str(i), w) for i, w in enumerate(weights))
        for _ in range(3):
            for weight, pair in zip(weights, values, strict=True):
                set_gradient(weight, *reversed(pair))
            if collected:
                optimiser.collect()
            report = optimiser.step(0.01, max_norm=1.0)
            assert report.gradient_norm == pytest.approx(math.sqrt(15.3125))
            assert all(w.grad is None for w in (*weights, *optimiser.masters.values()))
        made.append(optimiser.state_dict())
    for key in ("weights", "exp_avg", "exp_avg_sq"):
        for name in ("0", "1", "2"):
            assert torch.equal(made[0][key][name], made[1][key][name])


def test_a_pass_that_was_not_collected_adds_to_those_that_were() -> None:
    weight, other = (matrix(0.0, dtype=torch.bfloat16) for _ in range(2))
    optimiser = MasterAdamW([("w", weight), ("o", other)])
    set_gradient(weight, 1.0)
    optimiser.collect()
    set_gradient(weight, 2.0)
    set_gradient(other, 4.0)  # not touched by the first pass
    assert optimiser.step(0.1).gradient_norm == pytest.approx(5.0)


def test_chunks_hold_every_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "CHUNK_WEIGHTS", 10)
    sizes = (4, 5, 2, 30, 1, 9)
    weights = {str(i): torch.zeros(size) for i, size in enumerate(sizes)}
    assert optim._chunks(weights) == [["0", "1"], ["2"], ["3"], ["4", "5"]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad: float) -> None:
    weight, other = matrix(1.0), parameter(1.0)
    optimiser = MasterAdamW([("w", weight), ("o", other)], weight_decay=0.1)
    set_gradient(weight, 1.0)
    set_gradient(other, 1.0)
    optimiser.step(0.1)
    before = [weight.item(), other.item(), optimiser.state_dict()["exp_avg"]["w"].item()]
    set_gradient(weight, bad)
    set_gradient(other, 1.0)
    report = optimiser.step(0.1, max_norm=1.0)
    assert report.skipped
    assert not math.isfinite(report.gradient_norm)
    assert [weight.item(), other.item(), optimiser.state_dict()["exp_avg"]["w"].item()] == before
    set_gradient(weight, 1.0)
    assert not optimiser.step(0.1).skipped, "and the next one is clean"


def gradient_stream(count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(2, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_is_exact(dtype: torch.dtype) -> None:
    straight, cut = matrix(0.5, 0.25, dtype=dtype), matrix(0.5, 0.25, dtype=dtype)
    first, second = MasterAdamW([("w", straight)]), MasterAdamW([("w", cut)])
    for number, values in enumerate(gradient_stream(4)):
        if number == 2:
            resumed = matrix(9.0, 9.0, dtype=dtype)
            third = MasterAdamW([("w", resumed)])
            third.load_state_dict(second.state_dict())
            cut, second = resumed, third
        for weight, optimiser in ((straight, first), (cut, second)):
            set_gradient(weight, *values.tolist())
            optimiser.collect()
            optimiser.step(1e-2)
    assert torch.equal(straight, cut)
    for key in ("weights", "exp_avg", "exp_avg_sq", "step"):
        assert torch.equal(first.state_dict()[key]["w"], second.state_dict()[key]["w"])


def test_other_weights_forget_the_moments() -> None:
    weight = matrix(1.0)
    optimiser = MasterAdamW([("w", weight)])
    set_gradient(weight, 1.0)
    optimiser.step(0.1)
    optimiser.set_weights({"w": torch.tensor([[5.0]])})
    assert weight.item() == 5.0
    assert optimiser.state_dict()["exp_avg"] == {}


def test_states_of_other_models_are_refused() -> None:
    state = MasterAdamW([("w", matrix(1.0))]).state_dict()
    with pytest.raises(ValueError, match=r"2 differ, e.g. 'v'"):
        MasterAdamW([("v", matrix(1.0))]).load_state_dict(state)


def test_frozen_parameters_are_left_out() -> None:
    frozen = matrix(1.0)
    frozen.requires_grad = False
    assert list(MasterAdamW([("w", matrix(1.0)), ("f", frozen)]).parameters) == ["w"]
    with pytest.raises(ValueError, match="no trainable parameter"):
        MasterAdamW([("f", frozen)])
