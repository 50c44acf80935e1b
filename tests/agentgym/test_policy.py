"""Policies: what a backend is asked, and how demonstrations become tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentgym.actions import ActionSet
from agentgym.chat import ContextConfig
from agentgym.core import GenerationRequest, SamplingParams, TurnRequest
from agentgym.errors import ConfigError
from agentgym.images import encode_image
from agentgym.models.tiny import tiny_model
from agentgym.models.tiny_vlm import tiny_vlm
from agentgym.models.vision import Vision
from agentgym.policy import EnvPolicy, LanguagePolicy, oracle_policy, system_message
from agentgym.rollout import RolloutConfig, collect
from agentgym.types import (
    Completion,
    FloatArray,
    Image,
    IntArray,
    Observation,
    Source,
    Task,
)


def click(element: str) -> None:
    """Click an element."""


class World(gym.Env[Any, Any]):
    """Just enough of an environment for a policy."""

    action_set = ActionSet([click])
    action_syntax = "python"

    def oracle_action(self) -> str:
        return 'I click.\nclick("1")'


class Backend:
    """Answers with fixed ids and remembers what it was asked."""

    version, concurrency = 3, 1

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        self.asked += requests
        return [
            Completion("x", np.array([7, 8], np.int32), weights_version=self.version)
            for _ in requests
        ]

    def logprobs(self, sequences: Sequence[IntArray], starts: Sequence[int]) -> list[FloatArray]:
        raise NotImplementedError

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        self.version = version

    def close(self) -> None: ...


def seen(text: str) -> Observation:
    return {"goal": "G", "text": text, "error": ""}


def test_language_policy_asks_for_the_whole_context_and_records_the_new_part() -> None:
    _, tokenizer = tiny_model()
    backend = Backend()
    policy = LanguagePolicy(backend, tokenizer, sampling=SamplingParams(max_tokens=5))
    conversation = policy.conversation(World())
    outputs = []
    for i in range(2):
        conversation.observe(seen(f"page {i}"))
        outputs += policy.act([TurnRequest(conversation, seed=40 + i)])
    first, second = outputs
    assert not first.extends
    assert second.extends
    assert [r.seed for r in backend.asked] == [40, 41]
    np.testing.assert_array_equal(
        backend.asked[1].prompt_ids,
        np.concatenate([first.prompt_ids, [7, 8], second.prompt_ids]),
    )
    assert "click(element: str): Click an element." in backend.asked[0].messages[0].content


def test_what_does_not_fit_is_told_and_not_asked() -> None:
    _, tokenizer = tiny_model()
    backend = Backend()
    policy = LanguagePolicy(backend, tokenizer, context=ContextConfig(max_tokens=5))
    conversations = [policy.conversation(World()) for _ in range(2)]
    for conversation in conversations:
        conversation.observe(seen("page"))
    outputs = policy.act([TurnRequest(c, 0) for c in conversations])
    assert [o.overflow for o in outputs] == [True, True]
    assert backend.asked == []


def test_oracle_answers_become_ids_that_end_like_sampled_ones() -> None:
    _, tokenizer = tiny_model()
    policy = oracle_policy(tokenizer=tokenizer)
    assert policy.source is Source.EXPERT
    assert policy.consult is not None
    world = World()
    conversation = policy.conversation(world)
    conversation.observe(seen("page"))
    (output,) = policy.act([TurnRequest(conversation, 0, policy.consult(world))])
    ids = output.completion.token_ids
    assert ids is not None
    assert policy.format is not None
    assert ids[-1] == policy.format.end_id
    assert tokenizer.decode(ids[:-1]) == 'I click.\nclick("1")'


def test_an_env_policy_must_be_consulted() -> None:
    policy = EnvPolicy(lambda env: "", Source.HUMAN)
    conversation = policy.conversation(World())
    conversation.observe(seen("page"))
    with pytest.raises(ConfigError, match="consulted"):
        policy.act([TurnRequest(conversation, 0, None)])


def test_text_that_is_always_the_same_may_be_left_out() -> None:
    context = ContextConfig(instructions="Go.", describe=False)
    assert system_message(World(), context) == "Go."


def test_environments_without_declared_actions_get_the_instructions_alone() -> None:
    assert system_message(gym.Env(), ContextConfig(instructions="Do.")) == "Do."


def test_a_noisy_expert_is_reproducible_and_no_expert() -> None:
    task = [Task("agentgym/maze-v0", seed) for seed in range(6)]
    config = RolloutConfig(max_turns=30)
    first, again, other = (
        collect(task, oracle_policy(noise=0.5), config, seed=seed) for seed in (1, 1, 2)
    )
    played = [[turn.text for turn in t.turns] for t in first]
    assert played == [[turn.text for turn in t.turns] for t in again]
    assert played != [[turn.text for turn in t.turns] for t in other]
    pure = collect(task, oracle_policy(), config)
    assert all(t.success and t.source is Source.EXPERT for t in pure)
    assert all(t.source is Source.SYNTHETIC for t in first)
    # half of the moves are chance: on the way it takes longer
    assert sum(map(len, played)) > 1.3 * sum(len(t.turns) for t in pure)


def test_a_picture_that_cannot_be_shown_breaks_its_own_episode_alone() -> None:
    _, processor = tiny_vlm()
    vision = Vision(processor)
    backend = Backend()
    good = encode_image(np.zeros((20, 30, 3), np.uint8))
    policies: list[Any] = [
        LanguagePolicy(backend, vision.tokenizer, vision=vision),
        oracle_policy(tokenizer=vision.tokenizer, vision=vision),
    ]
    for policy in policies:
        requests = []
        for image in (good, Image("ab", b"no picture"), good):
            conversation = policy.conversation(World())
            conversation.observe(seen("page"), image)
            requests.append(TurnRequest(conversation, 1, "act()"))
        outputs = policy.act(requests)
        assert [o.completion.finish_reason for o in outputs] == ["stop", "error", "stop"]
        assert "no PNG" in outputs[1].completion.error
        assert [o.images for o in outputs] == [(good,), (), (good,)]
    assert [request.images for request in backend.asked] == [(good,), (good,)]
