"""`collect`: tasks x policy -> trajectories. A failed episode is a record, not a crash.

Every episode is a coroutine; environments work in their own threads and the policy in another one,
so neither waits for the other. In lockstep (the default) a batch is every live episode's turn: its
composition, and so every sampled bit, depends on the tasks and seeds alone. Without lockstep a
batch is whatever is ready, which is faster when step times differ and never bit-reproducible.
"""

import asyncio
import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from agentgym.core import Policy, TurnOutput, TurnRequest
from agentgym.errors import (
    AgentGymError,
    ConfigError,
    InferenceError,
    MissingDependencyError,
    UnknownNameError,
)
from agentgym.images import encode_image
from agentgym.roles import by_role
from agentgym.seeding import derive
from agentgym.types import EndReason, Image, IntArray, Observation, Task, Trajectory, Turn
from agentgym.workers import Env, EnvPool, EnvWorker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolloutConfig:
    """How episodes are run."""

    num_envs: int = 16
    """Episodes at the same time."""
    max_turns: int = 0
    """Turns after which an episode is truncated; 0 leaves it to the environment's own limit."""
    reset_timeout_s: float = 120.0
    """Deadline of making and resetting an environment."""
    step_timeout_s: float = 60.0
    """Deadline of a step."""
    episode_timeout_s: float = 1800.0
    """Deadline of an episode, generation included."""
    max_retries: int = 2
    """How often an episode that its environment broke is begun again, with the same seeds."""
    lockstep: bool = True
    """Batch the turns of all live episodes together, reproducibly."""
    linger_s: float = 0.005
    """Without lockstep: how long a batch waits for more turns."""

    def __post_init__(self) -> None:
        if self.num_envs < 1 or self.max_turns < 0 or self.max_retries < 0:
            raise ConfigError(
                f"need num_envs >= 1, max_turns >= 0 and max_retries >= 0, got {self!r}"
            )
        for name in ("reset_timeout_s", "step_timeout_s", "episode_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class _Shown:
    """What an environment's thread brings back for one observation."""

    observation: Observation
    image: Image | None
    info: Mapping[str, Any]
    consulted: str | None
    seconds: float
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


class _Broken(Exception):
    """An attempt that the environment, or inference, broke."""

    def __init__(self, end: EndReason, error: str) -> None:
        super().__init__(error)
        self.end = end


_ENV_FAILURES = (EndReason.ENV_ERROR, EndReason.ENV_TIMEOUT)
# These say that the caller asked for something impossible; retrying would not help.
_CALLERS_ERRORS = (ConfigError, MissingDependencyError, UnknownNameError, NotImplementedError)


def make_env(env_id: str, **kwargs: Any) -> Env:
    """`gymnasium.make` with our errors: an unknown id names the nearest ones.

    Raises:
        UnknownNameError: the id is not registered.
    """
    check_ids([env_id])
    return gym.make(env_id, disable_env_checker=True, **kwargs)


def check_ids(env_ids: Iterable[str]) -> None:
    """Raise `UnknownNameError` for the first id that Gymnasium does not know."""
    for env_id in env_ids:
        name = env_id.rpartition(":")[2]
        try:
            if ":" in env_id:
                gym.spec(env_id)
            elif name in gym.registry:
                continue
            else:
                gym.spec(name)
        except (gym.error.Error, ImportError) as error:
            raise UnknownNameError("environment", name, gym.registry) from error


def collect(
    tasks: Sequence[Task],
    policy: Policy,
    config: RolloutConfig | None = None,
    *,
    make: Callable[[str], Env] = make_env,
    seed: int = 0,
    name: str = "rollout",
    metadata: Mapping[str, Any] | None = None,
    on_trajectory: Callable[[Trajectory], None] | None = None,
    share: range | None = None,
) -> list[Trajectory]:
    """Run one episode for each task.

    Args:
        tasks: what to do; the same task may stand there many times (a group).
        policy: who acts.
        config: limits and batching.
        make: makes an environment by id, in the environment's own thread.
        seed: of the sampling; each episode and turn has a stream of its own.
        name: first part of the trajectories' ids.
        metadata: put into every trajectory.
        on_trajectory: called with each trajectory as it ends, in the calling thread's place; what
            it raises stops the rollout.
        share: which of the tasks to run; by default all. Seeds and ids are those that a rollout of
            all gives, so that processes can each do a part.

    Returns:
        One trajectory for each task that was run, in order; where the environment's info names a
        ``role``, one for each role that acted, each with a conversation of its own and an id such
        as ``rollout/00001.white`` (see `roles.by_role`). Those that an environment broke to the
        last retry have `outcome=None`.

    Raises:
        UnknownNameError: a task's environment is not registered.
    """
    if make is make_env:
        check_ids({t.env_id for t in tasks})
    rollout = _Rollout(policy, config or RolloutConfig(), make, seed, name, metadata or {})
    chosen = range(len(tasks)) if share is None else share
    return _run(rollout.run([(index, tasks[index]) for index in chosen], on_trajectory))


def _run(work: Coroutine[Any, Any, list[Trajectory]]) -> list[Trajectory]:
    """Run a coroutine whether or not this thread already has a running loop (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()


class _Rollout:
    def __init__(
        self,
        policy: Policy,
        config: RolloutConfig,
        make: Callable[[str], Env],
        seed: int,
        name: str,
        metadata: Mapping[str, Any],
    ) -> None:
        self.policy, self.config, self.seed = policy, config, seed
        self.name, self.metadata = name, dict(metadata)
        self.pool = EnvPool(make, size=2 * config.num_envs)

    async def run(
        self,
        tasks: Sequence[tuple[int, Task]],
        on_trajectory: Callable[[Trajectory], None] | None,
    ) -> list[Trajectory]:
        results: dict[int, list[Trajectory]] = {}
        waiting = deque(tasks)
        slots = min(self.config.num_envs, len(tasks))
        self.batcher = _Batcher(self.policy, self.config, live=slots)

        async def slot() -> None:
            try:
                while waiting:
                    index, task = waiting.popleft()
                    results[index] = await self._episode(index, task)
                    for trajectory in results[index]:
                        if on_trajectory is not None:
                            on_trajectory(trajectory)
            finally:
                self.batcher.leave()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(slots):
                    group.create_task(slot())
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            self.batcher.close()
            await asyncio.get_running_loop().run_in_executor(None, self.pool.close)
        return [trajectory for index, _ in tasks for trajectory in results[index]]

    async def _episode(self, index: int, task: Task) -> list[Trajectory]:
        """An episode with its retries; always returns a trajectory, or one for each role."""
        sample_seed = derive(self.seed, "episode", index)
        broken: list[str] = []
        while True:
            attempt = _Attempt(self, index, task, sample_seed)
            try:
                end = await attempt.run()
                error = ""
            except _Broken as problem:
                end, error = problem.end, str(problem)
                if end in _ENV_FAILURES and len(broken) < self.config.max_retries:
                    broken.append(error)
                    _log.warning("%s: attempt %d broke: %s", task.id, len(broken), error)
                    continue
            metadata = {**self.metadata, **({"broken_attempts": broken} if broken else {})}
            episode = attempt.trajectory(end, error, len(broken), metadata)
            return by_role(episode, attempt.roles)


class _Attempt:
    """One attempt at one episode."""

    def __init__(self, rollout: _Rollout, index: int, task: Task, sample_seed: int) -> None:
        self.rollout, self.config = rollout, rollout.config
        self.index, self.task, self.sample_seed = index, task, sample_seed
        self.turns: list[Turn] = []
        self.roles: list[str] = []
        """Who acted in each turn; empty names where the environment tells no roles."""
        self.last: _Shown | None = None
        self.final_prompt_ids: IntArray | None = None

    async def run(self) -> EndReason:
        """Play to the end.

        Raises:
            _Broken: the environment or inference failed.
        """
        deadline = time.monotonic() + self.config.episode_timeout_s
        worker = self.rollout.pool.take(self.task.env_id)
        try:
            return await self._play(worker, deadline)
        except _Broken as problem:
            if problem.end in _ENV_FAILURES:
                worker.broken = True
            raise
        except BaseException:  # cancelled, or the caller's error: the state is unknown
            worker.broken = True
            raise
        finally:
            self.rollout.pool.give(worker)

    async def _play(self, worker: EnvWorker, deadline: float) -> EndReason:
        policy = self.rollout.policy
        (conversation, shown) = await self._call(
            worker, self._reset, self.config.reset_timeout_s, deadline
        )
        limit = self.config.max_turns or math.inf
        conversations = {_role(shown): conversation}
        while True:
            self.last = shown
            role = _role(shown)
            if role not in conversations:
                conversations[role] = await self._call(
                    worker, policy.conversation, self.config.reset_timeout_s, deadline
                )
            conversation = conversations[role]
            conversation.observe(shown.observation, shown.image)
            seed = derive(self.sample_seed, "turn", len(self.turns))
            started = time.perf_counter()
            output = await self.rollout.batcher.act(
                self.index, TurnRequest(conversation, seed, shown.consulted)
            )
            generate_s = time.perf_counter() - started
            if output.overflow:
                self.final_prompt_ids = conversation.open_context()
                return EndReason.TOKEN_LIMIT
            if output.completion.finish_reason in ("error", "abort"):
                raise _Broken(EndReason.INFERENCE_ERROR, output.completion.error)
            text = output.completion.text
            last_turn = len(self.turns) + 1 >= limit
            after = await self._call(
                worker,
                partial(_step, text=text, policy=policy, last=last_turn),
                self.config.step_timeout_s,
                deadline,
            )
            truncated = after.truncated or (last_turn and not after.terminated)
            self.turns.append(_turn(shown, output, after, truncated, generate_s))
            self.roles.append(role)
            shown = self.last = after
            if after.terminated:
                return _end(after, self.turns)
            if truncated:
                conversation.observe(after.observation, after.image)
                self.final_prompt_ids = conversation.open_context()
                return EndReason.TURN_LIMIT

    def _reset(self, env: Env) -> Any:
        started = time.perf_counter()
        env.action_space.seed(derive(self.sample_seed, "action_space") % 2**32)
        observation, info = env.reset(seed=self.task.seed, options=dict(self.task.options))
        policy = self.rollout.policy
        return policy.conversation(env), _shown(env, observation, info, policy, started, False)

    async def _call(
        self, worker: EnvWorker, function: Callable[[Env], Any], timeout_s: float, deadline: float
    ) -> Any:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _Broken(
                EndReason.EPISODE_TIMEOUT,
                f"the episode took longer than episode_timeout_s={self.config.episode_timeout_s}",
            )
        try:
            return await worker.call(function, min(timeout_s, left))
        except TimeoutError as error:
            raise _Broken(
                EndReason.ENV_TIMEOUT,
                f"{self.task.env_id} did not answer within {min(timeout_s, left):.0f} s",
            ) from error
        except _CALLERS_ERRORS:
            raise
        except Exception as error:
            raise _Broken(EndReason.ENV_ERROR, f"{type(error).__name__}: {error}") from error

    def trajectory(
        self, end: EndReason, error: str, attempt: int, metadata: Mapping[str, Any]
    ) -> Trajectory:
        """The record of what happened."""
        last, rollout = self.last, self.rollout
        goal = last.observation["goal"] if last else self.task.goal
        finished = last is not None and len(self.turns) > 0
        return Trajectory(
            id=f"{rollout.name}/{self.index:05d}",
            task=dataclasses.replace(self.task, goal=goal),
            turns=tuple(self.turns),
            end=end,
            outcome=float(end is EndReason.SUCCESS) if end.is_agents else None,
            source=rollout.policy.source,
            policy=rollout.policy.name,
            sample_seed=self.sample_seed,
            group_id=self.task.id,
            attempt=attempt,
            final_observation=last.observation["text"] if last and finished else "",
            final_error=last.observation["error"] if last and finished else "",
            final_image=last.image if last and finished else None,
            final_prompt_ids=self.final_prompt_ids if finished else None,
            error=error,
            metadata=metadata,
        )


def _shown(
    env: Env, observation: Any, info: Mapping[str, Any], policy: Policy, started: float, over: bool
) -> _Shown:
    if not isinstance(observation, Mapping):  # a third party's plain text environment
        observation = {"goal": "", "text": str(observation), "error": ""}
    pixels = observation.get("image")
    consulted = None
    if policy.consult is not None and not over:
        consulted = policy.consult(env)
    return _Shown(
        observation={k: str(observation.get(k, "")) for k in ("goal", "text", "error")},  # type: ignore[arg-type]
        image=None if pixels is None else encode_image(np.asarray(pixels)),
        info=info,
        consulted=consulted,
        seconds=time.perf_counter() - started,
    )


def _role(shown: _Shown) -> str:
    """Whose turn it is, where the environment tells."""
    return str(shown.info.get("role", ""))


def _step(env: Env, text: str, policy: Policy, last: bool) -> _Shown:
    started = time.perf_counter()
    observation, reward, terminated, truncated, info = env.step(text)
    value = float(reward)
    if not math.isfinite(value):
        raise AgentGymError(f"the environment's reward is {reward!r}, which is no number")
    over = bool(terminated or truncated or last)
    shown = _shown(env, observation, info, policy, started, over)
    return dataclasses.replace(
        shown, reward=value, terminated=bool(terminated), truncated=bool(truncated)
    )


def _turn(
    before: _Shown, output: TurnOutput, after: _Shown, truncated: bool, generate_s: float
) -> Turn:
    """The record of one exchange: `before` was shown, `output` answered, `after` followed."""
    completion, info = output.completion, dict(after.info)
    return Turn(
        observation=before.observation["text"],
        prompt_ids=output.prompt_ids,
        extends=output.extends,
        action_ids=completion.token_ids,
        text=completion.text,
        logprobs=completion.logprobs,
        kept_mass=completion.kept_mass,
        entropy=completion.entropy,
        weights_version=completion.weights_version,
        temperature=output.temperature,
        finish_reason=completion.finish_reason,
        observation_error=before.observation["error"],
        image=before.image,
        prompt_images=output.images,
        thought=str(info.pop("thought", "")),
        action=str(info.pop("action", "")),
        action_error=str(info.pop("action_error", "")),
        parsed=bool(info.pop("parsed", True)),
        reward=after.reward,
        terminated=after.terminated,
        truncated=truncated,
        state_key=before.info.get("state_key"),
        info=info,
        cost={"env_s": after.seconds, "generate_s": generate_s},
    )


def _end(after: _Shown, turns: Sequence[Turn]) -> EndReason:
    """The environment's word, or for a third party's environment a positive return."""
    success = after.info.get("success", sum(turn.reward for turn in turns) > 0)
    if success is None:
        return EndReason.UNJUDGED
    return EndReason.SUCCESS if success else EndReason.FAILURE


class _Batcher:
    """Gathers turns into batches for the policy, which works in threads of its own."""

    def __init__(self, policy: Policy, config: RolloutConfig, live: int) -> None:
        self.policy, self.config, self.live = policy, config, live
        self.waiting: list[tuple[int, TurnRequest, asyncio.Future[TurnOutput]]] = []
        self.running = 0
        self.jobs: set[asyncio.Task[None]] = set()
        self.executor = ThreadPoolExecutor(
            max(1, policy.concurrency), thread_name_prefix="agentgym-policy"
        )
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None

    async def act(self, index: int, request: TurnRequest) -> TurnOutput:
        """One answer; comes when its batch has been sampled."""
        future: asyncio.Future[TurnOutput] = self.loop.create_future()
        self.waiting.append((index, request, future))
        self._consider()
        return await future

    def leave(self) -> None:
        """One episode slot will ask no more."""
        self.live -= 1
        self._consider()

    def _consider(self) -> None:
        if not self.waiting:
            return
        if self.config.lockstep:
            if len(self.waiting) >= self.live:
                self._dispatch()
        elif self.timer is None and self.running < max(1, self.policy.concurrency):
            everyone = len(self.waiting) >= self.live
            self.timer = self.loop.call_later(
                0.0 if everyone else self.config.linger_s, self._dispatch
            )

    def _dispatch(self) -> None:
        self.timer = None
        if not self.waiting:
            return
        batch, self.waiting = sorted(self.waiting, key=lambda w: w[0]), []
        job = self.loop.create_task(self._answer(batch))
        self.jobs.add(job)
        job.add_done_callback(self.jobs.discard)

    async def _answer(
        self, batch: Sequence[tuple[int, TurnRequest, asyncio.Future[TurnOutput]]]
    ) -> None:
        self.running += 1
        requests = [request for _, request, _ in batch]
        try:
            outputs = await self.loop.run_in_executor(self.executor, self.policy.act, requests)
            for (_, _, future), output in zip(batch, outputs, strict=True):
                if not future.done():
                    future.set_result(output)
        except Exception as error:
            failure = (
                _Broken(EndReason.INFERENCE_ERROR, str(error))
                if isinstance(error, InferenceError)
                else error
            )
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(failure)
        finally:
            self.running -= 1
            self._consider()

    def close(self) -> None:
        """Stop; a generation under way is left to end by itself."""
        for job in self.jobs:
            job.cancel()
        self.executor.shutdown(wait=False, cancel_futures=True)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that stopped the rollout, out of the group it came in."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
