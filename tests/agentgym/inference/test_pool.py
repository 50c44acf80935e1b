"""Pools of fake backends whose faults and pace the tests decide."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from agentgym.core import GenerationRequest, InferenceBackend
from agentgym.errors import ConfigError, InferenceError
from agentgym.inference.pool import BackendPool
from agentgym.inference.scripted import ScriptedBackend
from agentgym.types import Completion, FloatArray


class Fake:
    """Answers with its own name and the version of its weights."""

    def __init__(self, name: str, concurrency: int = 4) -> None:
        self.name = name
        self.version = 0
        self.concurrency = concurrency
        self.fault: Callable[[GenerationRequest], str] = lambda _: ""
        self.raises = False
        self.open = threading.Event()  # cleared: requests wait
        self.open.set()
        self.seen: list[GenerationRequest] = []
        self.checks = 0
        self.well = True
        self.takes_weights = True
        self.closed = False

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        self.seen += requests
        assert self.open.wait(20)
        if self.raises:
            raise InferenceError(f"{self.name} is gone")
        return [
            Completion("", None, finish_reason="error", error=error)
            if (error := self.fault(request))
            else Completion(self.name, request.prompt_ids, weights_version=self.version)
            for request in requests
        ]

    def logprobs(self, sequences: Any, starts: Any) -> list[FloatArray]:
        if self.raises:
            raise InferenceError(f"{self.name} is gone")
        return [np.asarray(s[k:], np.float32) for s, k in zip(sequences, starts, strict=True)]

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        if not self.takes_weights:
            raise InferenceError("no")
        self.version = version

    def check(self) -> None:
        self.checks += 1
        if not self.well:
            raise InferenceError("not well")

    def close(self) -> None:
        self.closed = True
        self.open.set()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Callable[..., tuple[BackendPool, list[Fake]]]]:
    pools: list[BackendPool] = []

    def build(count: int = 2, concurrency: int = 4, **options: Any) -> Any:
        fakes = [Fake(f"f{index}", concurrency) for index in range(count)]
        pools.append(BackendPool({f.name: f for f in fakes}, clock=clock, **options))
        return pools[-1], fakes

    yield build
    for pool in pools:
        pool.close()


Make = Callable[..., tuple[BackendPool, list[Fake]]]


def request(*ids: int) -> GenerationRequest:
    return GenerationRequest(np.array(ids or (1,), np.int32))


def names(answers: Sequence[Completion]) -> list[str]:
    return [answer.text for answer in answers]


def test_is_a_backend_and_keeps_order(make: Make) -> None:
    pool, fakes = make(3)
    assert isinstance(pool, InferenceBackend)
    assert pool.concurrency == 12
    answers = pool.generate([request(index) for index in range(30)])
    assert [int(a.token_ids[0]) for a in answers if a.token_ids is not None] == list(range(30))
    assert sum(len(fake.seen) for fake in fakes) == 30
    scores = pool.logprobs([np.array([1, 2, 3], np.int32)] * 2, [1, 2])
    assert [values.tolist() for values in scores] == [[2, 3], [3]]


def test_the_least_loaded_member_is_next(make: Make) -> None:
    pool, (slow, fast) = make(2)
    slow.open.clear()
    fast.open.clear()
    worker = threading.Thread(target=lambda: pool.generate([request(7) for _ in range(6)]))
    worker.start()
    while len(slow.seen) + len(fast.seen) < 6:
        time.sleep(0.001)
    assert (len(slow.seen), len(fast.seen)) == (3, 3)
    fast.open.set()
    while pool.state()["f1"]["running"]:
        time.sleep(0.001)
    assert names(pool.generate([request(7)])) == ["f1"], "f0 still has three"
    slow.open.set()
    worker.join(20)


def test_equal_beginnings_meet(make: Make) -> None:
    pool, fakes = make(4, prefix=2)
    for beginning in range(20):
        chosen = {names(pool.generate([request(beginning, 5, tail)]))[0] for tail in (1, 2, 3)}
        assert len(chosen) == 1
    assert all(fake.seen for fake in fakes), "different beginnings spread"


def test_episodes_stay_where_they_were(make: Make) -> None:
    pool, _ = make(2, sticky=lambda request: str(request.seed))
    first = names(pool.generate([request(1)]))[0]
    for beginning in range(10):  # all with seed 0, whatever they begin with
        assert names(pool.generate([request(beginning)])) == [first]
    home = next(member for member in pool.members if member.name == first)
    home.running = 2
    assert names(pool.generate([request(1)])) == [first], "two more than the other: still worth it"
    home.running = 3
    assert names(pool.generate([request(1)])) != [first]
    home.running = 0
    assert names(pool.generate([request(1)])) != [first], "the episode has moved"


def test_a_dead_member_is_taken_out_and_tried_later(make: Make, clock: Clock) -> None:
    pool, (dead, _) = make(2, rest_s=5, longest_rest_s=15)
    dead.raises = True
    for _ in range(3):
        assert names(pool.generate([request(i) for i in range(8)])) == ["f1"] * 8
    assert dead.seen, "it was asked"
    asked = len(dead.seen)
    assert pool.generate([request(i) for i in range(8)])
    assert len(dead.seen) == asked, "it rests"
    assert pool.state()["f0"]["rests_s"] > 0

    clock.now += 1000
    dead.well = False
    assert names(pool.generate([request(i) for i in range(20)])) == ["f1"] * 20
    assert dead.checks >= 1
    assert len(dead.seen) == asked, "not well: it got no request"
    assert pool.state()["f0"]["rests_s"] == 10, "twice as long as the first time"
    clock.now += 1000
    pool.generate([request(i) for i in range(20)])
    assert pool.state()["f0"]["rests_s"] == 15, "up to the longest"

    clock.now += 1000
    dead.raises, dead.well = False, True
    assert "f0" in names(pool.generate([request(i) for i in range(20)]))
    assert pool.state()["f0"]["failures"] == 0


def test_nobody_rests_for_a_bad_request(make: Make) -> None:
    pool, fakes = make(3)
    for fake in fakes:
        fake.fault = lambda r: "bad ids" if r.prompt_ids[0] == 13 else ""
    bad, good = pool.generate([request(13), request(1)])
    assert bad.finish_reason == "error"
    assert bad.error.count("bad ids") == 3, "each was asked once"
    assert good.error == ""
    assert all(state["rests_s"] == 0 for state in pool.state().values())


def test_all_dead_is_an_error_and_never_an_answer(make: Make, clock: Clock) -> None:
    pool, fakes = make(2)
    for fake in fakes:
        fake.raises = True
    answer = pool.generate([request()])[0]
    assert (answer.finish_reason, answer.text) == ("error", "")
    assert "f0: f0 is gone" in answer.error
    assert "f1: f1 is gone" in answer.error
    with pytest.raises(InferenceError, match="f1 is gone"):
        pool.logprobs([np.array([1, 2], np.int32)], [1])
    fakes[1].raises = False
    assert names(pool.generate([request()])) == ["f1"], "back as soon as one is"


def test_attempts_are_limited(make: Make) -> None:
    pool, fakes = make(4, attempts=2)
    for fake in fakes:
        fake.raises = True
    pool.generate([request()])
    assert sum(len(fake.seen) for fake in fakes) == 2


def test_weights_are_the_same_everywhere(make: Make) -> None:
    pool, (a, b) = make(2)
    pool.load_weights({}, 4)
    assert (a.version, b.version, pool.version) == (4, 4, 4)
    b.takes_weights = False
    pool.load_weights({}, 5)
    answers = pool.generate([request(i) for i in range(20)])
    assert {answer.weights_version for answer in answers} == {5}
    assert names(answers) == ["f0"] * 20
    assert pool.state()["f1"]["stale"]
    b.takes_weights = True
    pool.load_weights({}, 6)
    assert {a.text for a in pool.generate([request(i) for i in range(20)])} == {"f0", "f1"}
    a.takes_weights = b.takes_weights = False
    with pytest.raises(InferenceError, match="f0: no; f1: no"):
        pool.load_weights({}, 7)
    assert pool.version == 6
    assert pool.generate([request()])[0].weights_version == 6


def test_weights_wait_for_running_requests(make: Make) -> None:
    pool, (fake,) = make(1)
    fake.open.clear()
    answers: list[Completion] = []
    asking = threading.Thread(target=lambda: answers.extend(pool.generate([request()])))
    asking.start()
    while not fake.seen:
        time.sleep(0.001)
    loading = threading.Thread(target=lambda: pool.load_weights({}, 1))
    loading.start()
    while not pool._loading:
        time.sleep(0.001)
    late: list[Completion] = []
    waiting = threading.Thread(target=lambda: late.extend(pool.generate([request()])))
    waiting.start()
    assert fake.version == 0
    fake.open.set()
    for thread in (asking, loading, waiting):
        thread.join(20)
    assert [a.weights_version for a in (*answers, *late)] == [0, 1]


def test_a_backend_that_takes_one_call_gets_one() -> None:
    inside = threading.Lock()

    def script(_: GenerationRequest) -> str:
        assert inside.acquire(blocking=False), "two calls at once"
        inside.release()
        return "x"

    pool = BackendPool([ScriptedBackend(script)])
    assert names(pool.generate([request()] * 20)) == ["x"] * 20
    pool.close()


def test_closing(make: Make) -> None:
    pool, (fake,) = make(1)
    fake.open.clear()
    answers: list[Completion] = []
    worker = threading.Thread(target=lambda: answers.extend(pool.generate([request()])))
    worker.start()
    while not fake.seen:
        time.sleep(0.001)
    pool.close()
    pool.close()
    worker.join(20)
    assert fake.closed
    with pytest.raises(InferenceError, match="closed"):
        pool.generate([request()])


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        BackendPool([])
    with pytest.raises(ConfigError, match="attempts"):
        BackendPool([Fake("a")], attempts=0)
