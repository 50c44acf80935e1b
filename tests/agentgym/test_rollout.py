"""Rollouts: records, batching, deadlines, retries. The environment is a counter made here."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentgym.actions import ActionSet
from agentgym.chat import ContextConfig, Conversation
from agentgym.core import AgentEnv, TurnOutput, TurnRequest
from agentgym.errors import ConfigError, EnvFailureError, InferenceError, UnknownNameError
from agentgym.models.tiny import tiny_model
from agentgym.policy import EnvPolicy, random_policy
from agentgym.rollout import RolloutConfig, collect
from agentgym.spaces import ActionText, observation_space
from agentgym.types import NO_TOKENS, Completion, EndReason, Observation, Source, Task, Trajectory


def add(amount: int) -> None:
    """Add to the counter."""


class Counter(AgentEnv):
    """Reach 3 by adding; `hook` misbehaves on demand."""

    def __init__(self, hook: Callable[["Counter", str], None] | None = None) -> None:
        self.action_set = ActionSet([add])
        self.action_space = ActionText(self.action_set)
        self.observation_space = observation_space()
        self.hook = hook or (lambda env, event: None)
        self.closed = False

    def _show(self, error: str = "") -> Observation:
        return {"goal": "Reach 3.", "text": f"count {self.count}", "error": error}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.seed = 0, seed
        self.hook(self, "reset")
        return self._show(), {"state_key": "0"}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.hook(self, "step")
        reading = self.action_set.read(action)
        if reading.call is not None:
            self.count += int(reading.call.arguments["amount"])
        over = self.count >= 3
        info = {**reading.info(), "state_key": str(self.count), "success": self.count == 3}
        return self._show(reading.error), float(over and self.count == 3), over, False, info

    def close(self) -> None:
        self.closed = True


class Script:
    """A policy that answers by the observation's text."""

    name, source, concurrency = "script", Source.POLICY, 1
    consult: Callable[[gym.Env[Any, Any]], str] | None = None

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.batches: list[list[str]] = []

    def conversation(self, env: gym.Env[Any, Any]) -> Conversation:
        return Conversation(None, "system")

    def act(self, requests: Sequence[TurnRequest]) -> list[TurnOutput]:
        seen = [r.conversation.prompt().messages[-1].content for r in requests]
        self.batches.append(seen)
        outputs = []
        for request, text in zip(requests, seen, strict=True):
            answer = self.answer(text)
            request.conversation.reply(answer, None)
            outputs.append(TurnOutput(Completion(answer, None), NO_TOKENS, False))
        return outputs


def tasks(count: int) -> list[Task]:
    return [Task("counter", seed) for seed in range(count)]


def run(
    policy: Any, count: int = 1, hook: Any = None, on_trajectory: Any = None, **config: Any
) -> list[Trajectory]:
    return collect(
        tasks(count),
        policy,
        RolloutConfig(**config),
        make=lambda env_id: Counter(hook),
        on_trajectory=on_trajectory,
    )


def test_records_of_a_success() -> None:
    (t,) = run(Script(lambda seen: f"I add.\nadd({3 if 'count 2' not in seen else 1})"))
    assert (t.end, t.outcome, t.reward, t.success) == (EndReason.SUCCESS, 1.0, 1.0, True)
    assert t.id == "rollout/00000"
    assert t.task.goal == "Reach 3."
    (turn,) = t.turns
    assert (turn.observation, turn.text) == ("count 0", "I add.\nadd(3)")
    assert (turn.thought, turn.action, turn.parsed) == ("I add.", "add(3)", True)
    assert (turn.reward, turn.terminated, turn.truncated) == (1.0, True, False)
    assert turn.state_key == "0"  # of the state that the action answers, not the one after
    assert t.final_observation == "count 3"
    assert set(turn.cost) == {"env_s", "generate_s"}


def test_unparsable_text_is_told_and_counted_never_raised() -> None:
    (t,) = run(Script(lambda seen: "add(3)" if "Error" in seen else "\ud800 what?"))
    first, second = t.turns
    assert not first.parsed
    assert first.action_error.startswith("No action found")
    assert second.observation_error == first.action_error
    assert t.success


def test_failure_and_turn_limit_are_the_agents() -> None:
    (t,) = run(Script(lambda seen: "add(4)"))
    assert (t.end, t.outcome) == (EndReason.FAILURE, 0.0)
    (t,) = run(Script(lambda seen: "add(0)"), max_turns=4)
    assert (t.end, t.outcome, len(t.turns)) == (EndReason.TURN_LIMIT, 0.0, 4)
    assert [turn.truncated for turn in t.turns] == [False, False, False, True]
    assert t.truncated


def test_an_episode_that_only_a_judge_can_score_has_no_outcome_yet() -> None:
    class Unsure(Counter):
        def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
            observation, _, over, _, info = super().step(action)
            return observation, 0.0, over, False, info | {"success": None}

    adder = Script(lambda seen: "add(3)")
    (t,) = collect([Task("counter", 0)], adder, make=lambda env_id: Unsure())
    assert (t.end, t.outcome, t.success, t.attempt) == (EndReason.UNJUDGED, None, False, 0)
    assert (t.turns[-1].terminated, t.error) == (True, "")


def test_a_turn_that_ends_the_episode_at_the_limit_is_terminated_not_truncated() -> None:
    (t,) = run(Script(lambda seen: "add(1)"), max_turns=3)
    assert (t.end, t.turns[-1].terminated, t.turns[-1].truncated) == (
        EndReason.SUCCESS,
        True,
        False,
    )


def test_lockstep_batches_every_live_episode_in_order() -> None:
    policy = Script(lambda seen: "add(1)")
    results = run(policy, count=5, num_envs=3)
    assert [t.task.seed for t in results] == [0, 1, 2, 3, 4]
    assert [len(b) for b in policy.batches] == [3, 3, 3, 2, 2, 2]


def test_lockstep_batches_do_not_depend_on_timing() -> None:
    def play(slow: int) -> list[list[str]]:
        policy = Script(lambda seen: "add(1)" if "count 0" in seen else "add(2)")
        run(policy, 6, lambda env, event: time.sleep(0.02 * (env.seed == slow)), num_envs=4)
        return policy.batches

    assert play(slow=0) == play(slow=3)


def test_a_broken_environment_is_retried_with_the_same_seed_and_disturbs_nobody() -> None:
    seen: list[int | None] = []

    def hook(env: Counter, event: str) -> None:
        if env.seed == 1 and event == "reset":
            seen.append(env.seed)
        if env.seed == 1 and event == "step" and len(seen) < 3:
            raise EnvFailureError("the browser died")

    results = run(Script(lambda seen: "add(3)"), 3, hook)
    assert [t.outcome for t in results] == [1.0, 1.0, 1.0]
    assert [t.attempt for t in results] == [0, 2, 0]
    assert seen == [1, 1, 1]
    assert results[1].metadata["broken_attempts"] == ["EnvFailureError: the browser died"] * 2


def test_an_environment_that_stays_broken_is_unscored_not_zero() -> None:
    def hook(env: Counter, event: str) -> None:
        if event == "step" and env.seed == 0:
            raise RuntimeError("boom")

    broken, fine = run(Script(lambda seen: "add(3)"), 2, hook, max_retries=1)
    assert (broken.end, broken.outcome, broken.attempt) == (EndReason.ENV_ERROR, None, 1)
    assert broken.error == "RuntimeError: boom"
    assert fine.success


def test_a_hanging_step_costs_its_own_episode_only() -> None:
    release = threading.Event()

    def hook(env: Counter, event: str) -> None:
        if event == "step" and env.seed == 0:
            release.wait(20)

    hung, fine = run(Script(lambda seen: "add(3)"), 2, hook, max_retries=0, step_timeout_s=0.2)
    release.set()
    assert (hung.end, hung.outcome) == (EndReason.ENV_TIMEOUT, None)
    assert "did not answer within" in hung.error
    assert fine.success


def test_the_episode_deadline_is_nobodys_failure() -> None:
    def think(seen: str) -> str:
        time.sleep(0.03)
        return "add(0)"

    (t,) = run(Script(think), episode_timeout_s=0.1, max_turns=99)
    assert (t.end, t.outcome) == (EndReason.EPISODE_TIMEOUT, None)


def test_a_reward_that_is_no_number_is_the_environments_fault() -> None:
    class Odd(Counter):
        def step(self, action: str) -> Any:
            observation, _, over, truncated, info = super().step(action)
            return observation, float("nan"), over, truncated, info

    (t,) = collect(
        tasks(1), Script(lambda seen: "add(3)"), RolloutConfig(max_retries=0), make=lambda i: Odd()
    )
    assert (t.end, t.outcome) == (EndReason.ENV_ERROR, None)


def test_inference_that_fails_is_masked() -> None:
    def fail(seen: str) -> str:
        raise InferenceError("out of memory")

    (t,) = run(Script(fail))
    assert (t.end, t.outcome, t.error) == (EndReason.INFERENCE_ERROR, None, "out of memory")


def test_one_bad_request_fails_alone() -> None:
    class Poisoned(Script):
        def act(self, requests: Sequence[TurnRequest]) -> list[TurnOutput]:
            outputs = super().act(requests)
            bad = Completion("", NO_TOKENS, finish_reason="error", error="NaN logits")
            return [TurnOutput(bad, NO_TOKENS, False), *outputs[1:]]

    first, second = run(Poisoned(lambda seen: "add(3)"), 2)
    assert (first.end, first.error) == (EndReason.INFERENCE_ERROR, "NaN logits")
    assert second.success


def test_the_callers_mistakes_are_raised() -> None:
    def hook(env: Counter, event: str) -> None:
        raise ConfigError("no such option")

    with pytest.raises(ConfigError, match="no such option"):
        run(Script(lambda seen: "add(3)"), 2, hook)
    with pytest.raises(UnknownNameError, match="agentgym/nonsense"):
        collect([Task("agentgym/nonsense-v0", 0)], Script(lambda seen: ""))


def test_a_policys_bug_is_raised_and_environments_are_closed() -> None:
    made: list[Counter] = []

    def make(env_id: str) -> Counter:
        made.append(Counter())
        return made[-1]

    def bug(seen: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect(tasks(2), Script(bug), RolloutConfig(), make=make)
    deadline = time.monotonic() + 5
    while not all(env.closed for env in made) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [env.closed for env in made] == [True, True]


def test_trajectories_are_handed_out_as_they_end() -> None:
    order: list[int] = []

    def keep(t: Trajectory) -> None:
        order.append(t.task.seed)

    run(Script(lambda seen: "add(3)"), 4, num_envs=2, on_trajectory=keep)
    assert sorted(order) == [0, 1, 2, 3]


def test_random_policy_is_seeded_by_the_episode() -> None:
    def texts(seed: int) -> list[str]:
        results = collect(
            tasks(3),
            random_policy(),
            RolloutConfig(max_turns=3),
            make=lambda env_id: Counter(),
            seed=seed,
        )
        return [turn.text for t in results for turn in t.turns]

    assert texts(0) == texts(0) != texts(1)


def test_works_inside_a_running_event_loop() -> None:
    async def main() -> list[Trajectory]:
        return run(Script(lambda seen: "add(3)"), 2)

    assert [t.success for t in asyncio.run(main())] == [True, True]


def test_without_lockstep_every_episode_still_ends() -> None:
    hook = lambda env, event: time.sleep(0.01 * (env.seed % 3))  # noqa: E731
    results = run(Script(lambda seen: "add(1)"), 7, hook, num_envs=3, lockstep=False)
    assert [t.outcome for t in results] == [1.0] * 7


def test_images_are_kept_by_content() -> None:
    class Seen(Counter):
        def _show(self, error: str = "") -> Observation:
            shown = super()._show(error)
            shown["image"] = np.full((4, 5, 3), self.count > 1, np.uint8)
            return shown

    (t,) = collect(tasks(1), Script(lambda seen: "add(1)"), RolloutConfig(), make=lambda i: Seen())
    hashes = [turn.image.sha256 for turn in t.turns if turn.image]
    assert hashes[0] == hashes[1] != hashes[2]
    assert t.final_image is not None
    assert t.final_image.sha256 == hashes[2]


@pytest.mark.parametrize(
    "wrong", [{"num_envs": 0}, {"max_turns": -1}, {"step_timeout_s": 0}, {"max_retries": -1}]
)
def test_bad_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RolloutConfig(**wrong)


def test_a_cut_episode_keeps_the_context_that_was_next() -> None:
    """By a limit on turns or tokens; an episode that ended by itself has none."""
    _, tokenizer = tiny_model(0)

    def adder(amount: int, reserve: int = 0) -> Any:
        return EnvPolicy(
            lambda env: f"add({amount})",
            Source.SYNTHETIC,
            tokenizer=tokenizer,
            context=ContextConfig(max_tokens=500, instructions="Go."),
            reserve=reserve,
        )

    (ended,) = run(adder(3))
    assert (ended.end, ended.final_prompt_ids) == (EndReason.SUCCESS, None)
    (cut,) = run(adder(0), max_turns=2)
    assert cut.end is EndReason.TURN_LIMIT
    assert cut.truncated
    assert cut.final_prompt_ids is not None
    seen = [
        np.concatenate([t.prompt_ids, t.action_ids]) for t in cut.turns if t.action_ids is not None
    ]
    before = np.concatenate(seen)
    assert cut.final_prompt_ids[: len(before)].tolist() == before.tolist(), "token for token"
    rest = tokenizer.decode(cut.final_prompt_ids[len(before) :])
    assert rest == "\n<|im_start|>user\ncount 0<|im_end|>\n<|im_start|>assistant\n"
    for reserve, known in ((150, True), (0, False)):  # room for the context alone, or not even that
        (full,) = run(adder(0, reserve))
        assert full.end is EndReason.TOKEN_LIMIT
        assert full.truncated
        assert (full.final_prompt_ids is not None) == known
