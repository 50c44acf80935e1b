import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from agentgym.core import GenerationRequest, SamplingParams
from agentgym.inference import sampling
from agentgym.inference.answers import NOT_FINITE, Answers, failed
from agentgym.models.tiny import tiny_model

PROMPT = np.array([5, 6, 7], np.int32)


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(*tiny_model(positions=16))


def logits_for(*tokens: int) -> torch.Tensor:
    """(B, V) logits that make greedy rows choose these tokens."""
    logits = torch.zeros(len(tokens), 259)
    logits[range(len(tokens)), list(tokens)] = 50.0
    return logits


def test_limits_come_from_the_model_and_the_tokenizer(answers: Answers) -> None:
    assert (answers.vocabulary, answers.max_positions) == (259, 16)
    assert answers.eos_ids == {2}
    request = GenerationRequest(PROMPT, SamplingParams(max_tokens=50))
    assert answers.limit(request) == 13
    assert answers.limit(dataclasses.replace(request, sampling=SamplingParams(max_tokens=4))) == 4


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, ""),
        ({"prompt_ids": np.zeros(0, np.int32)}, "non-empty"),
        ({"prompt_ids": np.full(16, 5)}, "shorten"),
        ({"seed": -1}, "seed"),
        ({"weights": "critic"}, "policy"),
        ({"sampling": SamplingParams(top_p=2.0)}, "top_p"),
    ],
)
def test_problems_are_told(answers: Answers, changes: dict[str, object], word: str) -> None:
    request = dataclasses.replace(GenerationRequest(PROMPT), **changes)  # type: ignore[arg-type]
    assert word in answers.problem(request)
    assert bool(answers.problem(request)) == bool(word)


def test_a_row_ends_by_its_end_token_its_stop_string_or_its_limit(answers: Answers) -> None:
    tokenizer: Any = answers.tokenizer
    letters = [tokenizer.convert_tokens_to_ids(c) for c in "abc"]
    greedy = SamplingParams(temperature=0.0, max_tokens=3)
    rows = [
        answers.row(GenerationRequest(PROMPT, dataclasses.replace(greedy, stop=stop)))
        for stop in ((), ("b",), ())
    ]
    for token in letters[:2]:
        answers.sample(rows, logits_for(token, token, token))
    assert [row.finish for row in rows] == [None, "stop", None]
    answers.sample([rows[0], rows[2]], logits_for(2, letters[2]))
    done = [answers.completion(row, 7) for row in rows]
    assert [a.text for a in done] == ["ab", "a", "abc"]
    assert [a.finish_reason for a in done] == ["stop", "stop", "length"]
    assert [len(a.token_ids) for a in done if a.token_ids is not None] == [3, 2, 3]
    assert {a.weights_version for a in done} == {7}


def test_broken_logits_fail_their_row_alone(answers: Answers) -> None:
    rows = [answers.row(GenerationRequest(PROMPT)) for _ in range(2)]
    logits = logits_for(5, 5)
    logits[0, 3] = torch.nan
    answers.sample(rows, logits)
    assert answers.completion(rows[0], 1) == failed(NOT_FINITE, 1)
    assert rows[1].ids == [5]


def test_an_unfinished_row_counts_as_aborted(answers: Answers) -> None:
    row = answers.row(GenerationRequest(PROMPT))
    answers.sample([row], logits_for(9))
    assert answers.completion(row, 0).finish_reason == "abort"


def test_a_step_that_fails_can_be_tried_again(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(1, 259)
    expected, row = (answers.row(GenerationRequest(PROMPT, seed=5)) for _ in range(2))
    for _ in range(3):
        answers.sample([expected], logits)

    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "sample", fail)
            with pytest.raises(torch.OutOfMemoryError):
                answers.sample([row], logits)
        answers.sample([row], logits)
    assert row.ids == expected.ids
