from concurrent.futures import Future

import numpy as np
import pytest
import torch

from agentgym.core import GenerationRequest, SamplingParams, Ticket
from agentgym.errors import InferenceError
from agentgym.inference.answers import Answers, failed
from agentgym.inference.jobs import (
    DoneTicket,
    Generation,
    JobTicket,
    NextScores,
    States,
    TokenScores,
)
from agentgym.models.tiny import tiny_model

TEXT = np.array([5, 6, 7, 8], np.int32)
LOGPROBS = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).log()


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(*tiny_model())


def test_a_generation_tells_its_tokens_and_ends(answers: Answers) -> None:
    told: list[list[int]] = []
    row = answers.row(GenerationRequest(TEXT, SamplingParams(temperature=0.0, max_tokens=2)))
    job = Generation(row, answers, "policy", lambda ids: told.append(list(ids)))
    assert (job.todo, job.need, job.started) == (4, 3, False)
    for token in (9, 11):
        logits = torch.zeros(1, 259)
        logits[0, token] = 9.0
        job.computed = len(job.tokens)
        answers.sample([row], logits)
        job.sampled()
    assert told == [[9], [11]]
    assert job.tokens == [5, 6, 7, 8, 9, 11]
    job.rewind()
    assert (job.computed, job.todo, job.need) == (0, 6, 5)
    woken: list[bool] = []
    ticket: Ticket = JobTicket(job, lambda: woken.append(True))
    assert not ticket.done
    with pytest.raises(TimeoutError):
        ticket.result(0.0)
    ticket.abort()
    assert job.aborted
    assert woken == [True]
    job.finish(3)
    assert ticket.done
    assert ticket.result().weights_version == 3
    assert ticket.result().finish_reason == "length"


def test_what_on_tokens_raises_ends_its_own_answer(answers: Answers) -> None:
    def complain(ids: object) -> None:
        raise KeyError("no")

    row = answers.row(GenerationRequest(TEXT))
    job = Generation(row, answers, "policy", complain)
    answers.sample([row], torch.zeros(1, 259))
    job.sampled()
    job.finish(0)
    assert "on_tokens failed: KeyError" in job.future.result().error


def test_token_scores_pick_the_tokens_that_follow() -> None:
    job = TokenScores(np.array([0, 1, 0, 2]), 2, "policy")
    assert (job.tokens, job.need) == ([0, 1, 0], 1)
    job.take(LOGPROBS[:1], 1)
    assert job.need == 2
    job.take(LOGPROBS[1:], 2)
    np.testing.assert_allclose(job.result(), np.log([0.5, 0.7]), rtol=1e-6)


def test_next_scores_add_up_sets() -> None:
    job = NextScores(TEXT, [[0, 1], [2]], "policy")
    job.take(LOGPROBS[:1], 3)
    np.testing.assert_allclose(np.exp(job.result()), [0.75, 0.25], rtol=1e-6)


def test_states_are_put_together() -> None:
    job = States(TEXT, 1, 1, "base")
    job.take(torch.ones(2, 5, dtype=torch.bfloat16))
    job.take(torch.zeros(1, 5))
    assert job.need == 4
    assert job.result().sum(axis=1).tolist() == [5, 5, 0]


def test_failures_reach_whoever_waits(answers: Answers) -> None:
    reading = States(TEXT, 1, 1, "base")
    reading.fail("broken", 1)
    future: Future[object] = reading.future
    with pytest.raises(InferenceError, match="broken"):
        future.result()
    job = Generation(answers.row(GenerationRequest(TEXT)), answers, "policy")
    job.fail("broken", 1)
    assert job.future.result() == failed("broken", 1)
    ticket: Ticket = DoneTicket(failed("bad", 2))
    ticket.abort()
    assert ticket.done
    assert ticket.result(0.0).error == "bad"
