import math

import numpy as np
import pytest
import torch

from agentgym.core import SamplingParams
from agentgym.inference import sampling

HALF = torch.tensor([[0.5, 0.25, 0.25]]).log()  # worked with by hand below


def draw(
    logits: torch.Tensor, *uniform: float, **params: float
) -> tuple[list[int], sampling.Sample]:
    """One token per uniform number from the same logits row."""
    how = SamplingParams(**params)  # type: ignore[arg-type]
    rows = logits.expand(len(uniform), -1)
    sample = sampling.sample(rows, [how] * len(uniform), torch.tensor(uniform, dtype=torch.float64))
    return sample.token_ids.tolist(), sample


def test_distribution_by_hand() -> None:
    found = sampling.distribution(HALF + 7.0)  # a shift changes nothing
    torch.testing.assert_close(found.shifted - found.log_total[:, None], HALF)
    # 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2
    torch.testing.assert_close(found.entropy, torch.tensor([1.5 * math.log(2)]))
    assert found.ok.tolist() == [True]
    assert found.best.tolist() == [0]


def test_forbidden_tokens_add_nothing_to_the_entropy_and_are_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    found = sampling.distribution(logits)
    assert found.ok.all()
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(2)]))
    tokens, _ = draw(logits, 0.0, 0.499, 0.5, 1 - 2**-53)
    assert tokens == [1, 1, 3, 3]


def test_the_token_is_the_quantile() -> None:
    # Cumulative, exactly: 1/4, 1/2, 3/4, 1; a boundary belongs to the next token.
    tokens, sample = draw(torch.zeros(1, 4), 0.0, 0.249, 0.25, 0.5, 0.749, 0.75, 1 - 2**-53)
    assert tokens == [0, 0, 1, 2, 2, 3, 3]
    torch.testing.assert_close(sample.logprobs, torch.full((7,), -math.log(4)))
    assert sample.kept_mass.tolist() == [1.0] * 7


def test_temperature_changes_the_draw_but_not_the_recorded_logprob() -> None:
    # T = 0.5 squares: [1/4, 1/16, 1/16] / (3/8) = [2/3, 1/6, 1/6].
    tokens, sample = draw(HALF, 0.66, 0.67, 0.84, temperature=0.5)
    assert tokens == [0, 1, 2]
    torch.testing.assert_close(sample.logprobs, HALF[0])
    torch.testing.assert_close(sample.entropy, torch.full((3,), 1.5 * math.log(2)))


def test_quantiles_on_a_grid_give_exact_frequencies() -> None:
    grid = [(i + 0.5) / 1000 for i in range(1000)]
    tokens, _ = draw(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log(), *grid)
    assert np.bincount(tokens).tolist() == [100, 200, 300, 400]


@pytest.mark.parametrize("vocabulary", [5, 256, 257, 3000])
def test_quantiles_are_where_cumulative_sums_pass_them(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.rand(40, vocabulary, generator=generator)
    weights[weights < 0.3] = 0.0
    uniform = torch.rand(40, dtype=torch.float64, generator=generator)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-53])
    cumulative = weights.double().cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros(1).double()))
    found = sampling._quantile(weights, uniform)
    assert found.tolist() == torch.searchsorted(cumulative, target, right=True)[:, 0].tolist()
    assert (weights.gather(1, found[:, None]) > 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-30])
def test_temperature_zero_is_greedy(temperature: float) -> None:
    tokens, sample = draw(HALF, 0.0, 1 - 2**-53, temperature=temperature)
    assert tokens == [0, 0]
    torch.testing.assert_close(sample.logprobs, HALF[0, [0, 0]])
    assert sample.kept_mass.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("params", "kept", "mass"),
    [
        ({"top_k": 1}, {0}, 0.5),
        ({"top_k": 1, "temperature": 0.5}, {0}, 2 / 3),
        ({"top_k": 2}, {0, 1, 2}, 1.0),  # the second and third tie
        ({"top_k": 3}, {0, 1, 2}, 1.0),
        ({"top_k": 99}, {0, 1, 2}, 1.0),
        ({"top_p": 0.4}, {0}, 0.5),
        ({"top_p": 0.5}, {0}, 0.5),
        ({"top_p": 0.6}, {0, 1, 2}, 1.0),  # one of the tied pair is needed, so both
        ({"top_p": 1e-9}, {0}, 0.5),
    ],
)
def test_truncation_by_hand(params: dict[str, float], kept: set[int], mass: float) -> None:
    tokens, sample = draw(HALF, *np.linspace(0, 1 - 1e-9, 101), **params)
    assert set(tokens) == kept
    torch.testing.assert_close(sample.kept_mass, torch.full((101,), mass))


def test_top_p_applies_to_what_top_k_left() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # top_k leaves [4/7, 3/7]; 0.57 < 4/7, so the first token alone is enough.
    tokens, sample = draw(logits, 0.0, 0.999, top_k=2, top_p=0.57)
    assert tokens == [0, 0]
    torch.testing.assert_close(sample.kept_mass, torch.full((2,), 0.4))
    tokens, sample = draw(logits, 0.0, 0.999, top_k=2, top_p=0.58)
    assert tokens == [0, 1]
    torch.testing.assert_close(sample.kept_mass, torch.full((2,), 0.7))


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999999])
def test_top_p_keeps_the_smallest_set_in_a_large_vocabulary(top_p: float) -> None:
    logits = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0))
    weights = logits.double().exp()
    floor = sampling.kept_floor(logits, weights, [SamplingParams(top_p=top_p)])
    assert floor is not None
    probabilities = logits.double().softmax(-1)
    kept = logits >= floor
    assert probabilities[kept].sum() >= top_p
    assert probabilities[logits > floor].sum() < top_p  # without its last token it is too small


def test_rows_without_truncation_are_untouched_by_others() -> None:
    params = [SamplingParams(), SamplingParams(top_k=1)]
    floors = sampling.kept_floor(HALF.expand(2, -1), HALF.double().exp().expand(2, -1), params)
    assert floors is not None
    assert floors[0].item() == -math.inf
    assert sampling.kept_floor(HALF, HALF.double().exp(), [SamplingParams(top_k=3)]) is None


@pytest.mark.parametrize(
    "row", [[math.nan, 0.0, 0.0], [math.inf, 0.0, 0.0], [-math.inf] * 3, [math.nan] * 3]
)
def test_a_broken_row_is_told_and_leaves_the_others_alone(row: list[float]) -> None:
    good = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    mixed = torch.stack([good[0], torch.tensor(row), good[1]])
    params = [SamplingParams(top_p=0.9)] * 3
    uniform = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    sample = sampling.sample(mixed, params, uniform)
    alone = sampling.sample(good, params[:2], uniform[[0, 2]])
    assert sample.ok.tolist() == [True, False, True]
    assert sample.token_ids[[0, 2]].tolist() == alone.token_ids.tolist()
    assert torch.equal(sample.logprobs[[0, 2]], alone.logprobs)
    assert torch.equal(sample.kept_mass[[0, 2]], alone.kept_mass)


def test_a_row_does_not_depend_on_its_company() -> None:
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(2)) * 3
    params = [
        SamplingParams(),
        SamplingParams(temperature=0.0),
        SamplingParams(top_p=0.5),
        SamplingParams(top_k=5),
        SamplingParams(temperature=0.7, top_k=9, top_p=0.8),
        SamplingParams(temperature=3.0),
    ]
    uniform = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    together = sampling.sample(logits, params, uniform)
    for row in range(6):
        alone = sampling.sample(logits[[row]], [params[row]], uniform[[row]])
        assert together.token_ids[row] == alone.token_ids[0]
        torch.testing.assert_close(together.kept_mass[row], alone.kept_mass[0])
        torch.testing.assert_close(together.entropy[row], alone.entropy[0])


def test_low_precision_logits_are_computed_on_in_float32() -> None:
    sample = sampling.sample(
        HALF.bfloat16(), [SamplingParams()], torch.tensor([0.1], dtype=torch.float64)
    )
    assert sample.logprobs.dtype == torch.float32
    torch.testing.assert_close(sample.logprobs, HALF.bfloat16().float().log_softmax(-1)[:, 0])


def test_every_request_has_its_own_numbers() -> None:
    one, other = sampling.Noise(1), sampling.Noise(2)
    assert one[70] == np.random.default_rng(1).random(71)[70]  # drawn in parts, in any order
    assert one[3] == np.random.default_rng(1).random(4)[3] != other[3]


@pytest.mark.parametrize("top_k", [0, 1, 40, 9999])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 0.999999, 1.0])
def test_a_gpu_truncates_at_the_same_place(top_k: int, top_p: float) -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    params = [SamplingParams(top_k=top_k, top_p=top_p), SamplingParams(), SamplingParams(top_k=3)]
    expected = sampling.kept_floor(logits, logits.double().exp(), params)
    assert expected is not None
    assert torch.equal(sampling._sorted_floor(logits, params), expected)


@pytest.mark.parametrize(
    ("params", "word"),
    [
        (SamplingParams(temperature=-1.0), "temperature"),
        (SamplingParams(temperature=math.nan), "temperature"),
        (SamplingParams(temperature="hot"), "temperature"),  # type: ignore[arg-type]
        (SamplingParams(top_p=0.0), "top_p"),
        (SamplingParams(top_p=1.5), "top_p"),
        (SamplingParams(top_k=-1), "top_k"),
        (SamplingParams(top_k=2.5), "top_k"),  # type: ignore[arg-type]
        (SamplingParams(max_tokens=0), "max_tokens"),
        (SamplingParams(stop="x"), "stop"),  # type: ignore[arg-type]
        (SamplingParams(stop=("",)), "stop"),
        (SamplingParams(stop=(3,)), "stop"),  # type: ignore[arg-type]
    ],
)
def test_wrong_parameters_are_named(params: SamplingParams, word: str) -> None:
    assert word in sampling.problem(params)


def test_right_parameters_are_fine() -> None:
    good = SamplingParams(temperature=0, top_p=1, top_k=0, max_tokens=1, stop=("a", "b"))
    assert sampling.problem(good) == ""
