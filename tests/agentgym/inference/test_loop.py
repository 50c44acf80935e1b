import threading
import time

import numpy as np
import pytest

from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import InferenceError
from agentgym.inference.answers import Answers
from agentgym.inference.decoder import make_decoder
from agentgym.inference.jobs import Generation
from agentgym.inference.loop import Loop
from agentgym.inference.scheduler import Scheduler
from agentgym.models.tiny import tiny_model

MODEL, TOKENIZER = tiny_model()
ANSWERS = Answers(MODEL, TOKENIZER, eos_ids=())
DECODER = make_decoder(MODEL)


def loop(max_waiting: int = 100) -> Loop:
    scheduler = Scheduler(DECODER, ANSWERS, DECODER.pool(8), max_batch=2, chunk=64, reuse=True)
    return Loop(scheduler, max_waiting)


def job(new: int = 3) -> Generation:
    request = GenerationRequest(np.array([5, 6], np.int32), SamplingParams(0.0, max_tokens=new))
    return Generation(ANSWERS.row(request), ANSWERS, "policy")


def test_jobs_are_done_in_a_thread_of_its_own() -> None:
    what = loop()
    jobs = [job() for _ in range(5)]
    for each in jobs:
        what.submit(each)
    assert {each.future.result(60).finish_reason for each in jobs} == {"length"}
    what.stop("enough")
    what.stop("enough")
    assert what.unfinished == 0
    with pytest.raises(InferenceError, match="enough"):
        what.submit(job())
    with pytest.raises(InferenceError, match="enough"):
        what.alone(lambda: None)


def test_a_full_queue_refuses_or_blocks() -> None:
    what = loop(max_waiting=1)
    begun, go = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait(60)

    blocker = threading.Thread(target=what.alone, args=(block,))
    blocker.start()
    assert begun.wait(60)
    first, second = job(), job()
    what.submit(first)
    with pytest.raises(InferenceError, match="try again later"):
        what.submit(second)
    later = threading.Thread(target=what.submit, args=(second,), kwargs={"block": True})
    later.start()
    go.set()
    assert second.future.result(60).error == ""
    assert first.future.done()
    blocker.join()
    later.join()
    what.stop("enough")


def test_an_action_runs_alone_and_its_error_is_raised() -> None:
    what = loop()
    running = job(new=50)
    what.submit(running)
    seen: list[int] = []
    what.alone(lambda: seen.append(len(running.row.ids)))
    assert seen in ([0], [50])  # before it began, or after it ended

    def fail() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError):
        what.alone(fail)
    what.stop("enough")


def test_stop_fails_what_is_unfinished() -> None:
    what = loop()
    jobs = [job(new=240) for _ in range(6)]
    for each in jobs:
        what.submit(each)
    what.stop("enough")
    assert "enough" in {each.future.result(0).error for each in jobs}


def test_a_fault_of_the_scheduler_reaches_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    what = loop()

    def fault(self: Scheduler, **how: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(Scheduler, "step", fault)
    broken = job()
    what.submit(broken)
    assert "a bug" in broken.future.result(60).error
    for _ in range(600):
        try:
            what.check()
        except InferenceError:
            break
        time.sleep(0.1)
    with pytest.raises(InferenceError, match="a bug"):
        what.submit(job())


def test_waking_without_work_changes_nothing() -> None:
    what = loop()
    what.wake()
    done = job()
    what.submit(done)
    what.wake()
    assert done.future.result(60).finish_reason == "length"
    what.stop("enough")
