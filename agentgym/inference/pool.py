"""Several backends as one: least loaded first, dead ones set aside, episodes stay where they were.

The members are servers (`OpenAIBackend`) or models on several devices. Each takes requests one by
one, so that one long answer holds nobody up.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentgym.core import GenerationRequest, InferenceBackend
from agentgym.errors import AgentGymError, ConfigError, InferenceError
from agentgym.inference.batching import failed
from agentgym.types import Completion, FloatArray, IntArray

T = TypeVar("T")
log = logging.getLogger(__name__)

_SLACK = 2
"""A member with so many more requests than the least loaded one loses its episodes to it."""
_MOST_KEYS = 1 << 16
"""Of as many episodes it is remembered where they were."""


@dataclass(eq=False)
class Member:
    """One backend of a pool and how it fares."""

    backend: InferenceBackend
    name: str
    running: int = 0
    answered: int = 0
    failures: int = 0
    """In a row."""
    resting_until: float = 0.0
    """Takes no request before this moment of the pool's clock."""
    stale: bool = False
    """Could not take the newest weights: takes no request until it has."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held during a call of a backend that takes one at a time."""


class BackendPool:
    """An `InferenceBackend` over several others that answer with the same weights.

    A request goes to the member with the fewest running ones; equally loaded members are told
    apart by the prompt's first tokens, so that episodes with a common beginning meet where its
    keys and values are cached. With `sticky`, requests of one key go where the key's last request
    went, unless that member is much busier than others.

    A request that a member does not answer goes to the next one. If that one answers, the fault
    was the member's, and after `max_failures` of them in a row it rests, twice as long each time;
    before it gets requests again it is asked whether it is well (its method `check`, if it has
    one). A request that no member answers fails alone, and nobody rests for it.

    New weights are loaded while no request runs. A member that cannot load them takes no requests
    until a later `load_weights` succeeds, so that all answers carry one version.
    """

    def __init__(
        self,
        backends: Mapping[str, InferenceBackend] | Sequence[InferenceBackend],
        *,
        attempts: int | None = None,
        max_failures: int = 1,
        rest_s: float = 5.0,
        longest_rest_s: float = 300.0,
        sticky: Callable[[GenerationRequest], str] | None = None,
        prefix: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the backends.

        Args:
            backends: at least one, by name or in order; closed with the pool.
            attempts: most members that a request is given to; `None`: all.
            max_failures: failed requests in a row after which a member rests.
            rest_s: first rest, in seconds.
            longest_rest_s: longest rest.
            sticky: a request's key, e.g. its episode; "" for none.
            prefix: tokens of a prompt that count as its beginning.
            clock: seconds.

        Raises:
            ConfigError: no backends, or a number is out of range.
        """
        named = backends if isinstance(backends, Mapping) else dict(_numbered(backends))
        if not named:
            raise ConfigError("a pool needs at least one backend")
        attempts = len(named) if attempts is None else attempts
        if min(attempts, max_failures, prefix) < 1 or min(rest_s, longest_rest_s) < 0:
            raise ConfigError(
                "attempts, max_failures and prefix must be at least 1, rests at least 0, got "
                f"{attempts}, {max_failures}, {prefix}, {rest_s}, {longest_rest_s}"
            )
        self.members = tuple(Member(backend, name) for name, backend in named.items())
        self.version = max(member.backend.version for member in self.members)
        self.concurrency = sum(member.backend.concurrency for member in self.members)
        self._attempts = attempts
        self._max_failures = max_failures
        self._rests = (rest_s, longest_rest_s)
        self._sticky = sticky
        self._prefix = prefix
        self._clock = clock
        self._homes: OrderedDict[str, Member] = OrderedDict()
        self._changed = threading.Condition()
        self._loading = False
        self._closed = False
        self._workers = ThreadPoolExecutor(min(self.concurrency, 512), thread_name_prefix="pool")

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order; see `InferenceBackend.generate`.

        Raises:
            InferenceError: the pool is closed.
        """
        return self._map(self._answer, requests)

    def logprobs(self, sequences: Sequence[IntArray], starts: Sequence[int]) -> list[FloatArray]:
        """Log-probabilities of given tokens, spread over the members.

        Raises:
            InferenceError: no member could tell those of some sequence.
        """

        def score(pair: tuple[IntArray, int]) -> FloatArray:
            def call(backend: InferenceBackend) -> FloatArray:
                return backend.logprobs([pair[0]], [pair[1]])[0]

            return self._somewhere(call, pair[0], "")

        return self._map(score, list(zip(sequences, starts, strict=True)))

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Give all members new weights; those that fail take no requests until they have some.

        Running requests end first; new ones wait.

        Raises:
            InferenceError: no member could load them; all go on as before.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._loading)
            self._loading = True
            self._changed.wait_for(lambda: not any(member.running for member in self.members))
        try:
            problems: dict[Member, str] = {}
            for member in self.members:
                try:
                    member.backend.load_weights(state, version)
                except AgentGymError as error:
                    problems[member] = f"{member.name}: {error}"
                    log.warning("%s cannot load version %d: %s", member.name, version, error)
            if len(problems) == len(self.members):
                raise InferenceError(f"no member could load: {'; '.join(problems.values())}")
            for member in self.members:
                member.stale = member in problems
            self.version = version
        finally:
            with self._changed:
                self._loading = False
                self._changed.notify_all()

    def close(self) -> None:
        """Close all members; may be called twice."""
        self._closed = True
        for member in self.members:
            member.backend.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def state(self) -> dict[str, dict[str, Any]]:
        """How each member fares, as plain values for logs."""
        now = self._clock()
        return {
            member.name: {
                "running": member.running,
                "answered": member.answered,
                "failures": member.failures,
                "rests_s": max(0.0, member.resting_until - now),
                "stale": member.stale,
            }
            for member in self.members
        }

    def _map(self, call: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        try:
            futures = [self._workers.submit(call, item) for item in items]
        except RuntimeError as error:
            raise InferenceError("the pool is closed; make a new BackendPool") from error
        return [future.result() for future in futures]

    def _answer(self, request: GenerationRequest) -> Completion:
        def call(backend: InferenceBackend) -> Completion:
            answer = backend.generate([request])[0]
            if answer.finish_reason == "error":
                raise InferenceError(answer.error)
            return answer

        key = self._sticky(request) if self._sticky else ""
        try:
            return self._somewhere(call, request.prompt_ids, key)
        except AgentGymError as error:
            return failed(str(error), self.version)

    def _somewhere(self, call: Callable[[InferenceBackend], T], ids: IntArray, key: str) -> T:
        """What the call gives at the first member where it succeeds.

        Raises:
            InferenceError: it succeeded nowhere; says why, member by member.
        """
        problems: dict[Member, str] = {}
        while len(problems) < self._attempts and not self._closed:
            member = self._take(ids, key, problems)
            if member is None:
                break
            try:
                result = self._call(member, call)
            except ConfigError:  # the request's own fault
                raise
            except (AgentGymError, OSError) as error:
                problems[member] = f"{member.name}: {error}"
            else:
                self._blame(problems)
                member.failures = 0
                member.answered += 1
                return result
            finally:
                with self._changed:
                    member.running -= 1
                    self._changed.notify_all()
        if self._closed:
            raise InferenceError("the pool was closed")
        raise InferenceError("; ".join(problems.values()) or "no member has the newest weights")

    def _call(self, member: Member, call: Callable[[InferenceBackend], T]) -> T:
        check = getattr(member.backend, "check", None)
        if check is not None and member.failures >= self._max_failures:
            check()
        if member.backend.concurrency > 1:
            return call(member.backend)
        with member.busy:
            return call(member.backend)

    def _take(self, ids: IntArray, key: str, tried: Container[Member]) -> Member | None:
        """A member for a request, counted as running from here on; `None` if none is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._loading)
            now = self._clock()
            fit = [m for m in self.members if not m.stale and m not in tried]
            # If all rest, the one that has rested longest is better than no answer at all.
            able = [m for m in fit if m.resting_until <= now] or sorted(
                fit, key=lambda m: m.resting_until
            )[:1]
            if not able:
                return None
            least = min(self._load(member) for member in able)
            home = self._homes.get(key) if key else None
            if home not in able or (home and self._load(home) > least + self._slack(home)):
                even = [m for m in able if self._load(m) == least]
                home = max(even, key=lambda m: _affinity(m.name, ids[: self._prefix]))
            assert home is not None
            if key:
                self._homes[key] = home
                self._homes.move_to_end(key)
                if len(self._homes) > _MOST_KEYS:
                    self._homes.popitem(last=False)
            home.running += 1
            return home

    @staticmethod
    def _load(member: Member) -> float:
        """Requests per place."""
        return member.running / member.backend.concurrency

    @staticmethod
    def _slack(member: Member) -> float:
        return _SLACK / member.backend.concurrency

    def _blame(self, problems: Mapping[Member, str]) -> None:
        """Count a failure of each; a member rests if there were too many in a row."""
        for member, problem in problems.items():
            with self._changed:
                if member.resting_until > self._clock():
                    continue  # the others of a burst of failures count as one
                member.failures += 1
                excess = member.failures - self._max_failures
                if excess < 0:
                    continue
                first, longest = self._rests
                member.resting_until = self._clock() + min(first * 2.0 ** min(excess, 30), longest)
            log.warning("rests after %d failures: %s", member.failures, problem)


def _numbered(backends: Sequence[InferenceBackend]) -> list[tuple[str, InferenceBackend]]:
    return [(f"member {index}", backend) for index, backend in enumerate(backends)]


def _affinity(name: str, ids: IntArray) -> bytes:
    """A member's rank for a prompt's beginning (rendezvous hashing: stable if others leave)."""
    return hashlib.blake2b(name.encode() + ids.tobytes(), digest_size=8).digest()
