"""Policies: a language model behind a backend, or an action that the environment itself offers."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from agentgym.chat import (
    ChatFormat,
    ContextConfig,
    Conversation,
    PictureReader,
    Prompt,
    Tokenizer,
)
from agentgym.core import (
    GenerationRequest,
    InferenceBackend,
    SamplingParams,
    TurnOutput,
    TurnRequest,
)
from agentgym.errors import ConfigError, ImageError
from agentgym.types import NO_TOKENS, Completion, Source


class LanguagePolicy:
    """A language model that reads observations and writes actions.

    Args:
        backend: where tokens are sampled.
        tokenizer: of the backend's model; `None` for servers that only take messages (their
            trajectories can be judged but not trained on).
        sampling: how to sample.
        context: how much of the episode the model sees.
        name: recorded in trajectories.
        vision: of a vision-language model; without it only servers that take messages are shown
            pictures.
    """

    source = Source.POLICY
    consult: Callable[[gym.Env[Any, Any]], str] | None = None

    def __init__(
        self,
        backend: InferenceBackend,
        tokenizer: Tokenizer | None,
        *,
        sampling: SamplingParams | None = None,
        context: ContextConfig | None = None,
        name: str = "language",
        vision: PictureReader | None = None,
    ) -> None:
        self.backend = backend
        self.format = None if tokenizer is None else ChatFormat(tokenizer, vision)
        self.sampling = sampling or SamplingParams()
        self.context = context or ContextConfig()
        self.name = name
        self.concurrency = backend.concurrency

    def conversation(self, env: gym.Env[Any, Any]) -> Conversation:
        """A fresh conversation that knows the environment's actions."""
        system = system_message(env, self.context)
        return Conversation(self.format, system, self.context, reserve=self.sampling.max_tokens)

    def act(self, requests: Sequence[TurnRequest]) -> list[TurnOutput]:
        """Sample one answer for each conversation, in one batch."""
        prompts = [_prompt(r.conversation) for r in requests]
        generation = [
            GenerationRequest(p.context, self.sampling, r.seed, p.messages, images=p.context_images)
            for r, p in zip(requests, prompts, strict=True)
            if isinstance(p, Prompt) and p.fits
        ]
        answers = iter(self.backend.generate(generation) if generation else ())
        outputs = []
        for request, prompt in zip(requests, prompts, strict=True):
            if isinstance(prompt, TurnOutput):
                outputs.append(prompt)
                continue
            if prompt.fits:
                completion = next(answers)
                request.conversation.reply(completion.text, completion.token_ids)
            else:
                completion = Completion("", NO_TOKENS, finish_reason="length")
            outputs.append(
                TurnOutput(
                    completion,
                    prompt.ids,
                    prompt.extends,
                    self.sampling.temperature,
                    prompt.images,
                    overflow=not prompt.fits,
                )
            )
        return outputs


class EnvPolicy:
    """Actions that come from the environment's side: its oracle, a random draw, a person.

    With a tokenizer the answers are recorded as ids too, so that they are demonstrations.

    Args:
        consult: called in the environment's own thread; returns the answer's text.
        source: recorded in trajectories.
        tokenizer: of the model that shall learn from the answers.
        context: as for `LanguagePolicy`; must be the learner's.
        reserve: tokens kept free for the answer; as the learner's `max_tokens`.
        vision: of the learner, if it reads pictures.
    """

    concurrency = 1

    def __init__(
        self,
        consult: Callable[[gym.Env[Any, Any]], str],
        source: Source,
        *,
        tokenizer: Tokenizer | None = None,
        context: ContextConfig | None = None,
        reserve: int = 0,
        vision: PictureReader | None = None,
    ) -> None:
        self.consult: Callable[[gym.Env[Any, Any]], str] | None = consult
        self.source = source
        self.name = str(source)
        self.format = None if tokenizer is None else ChatFormat(tokenizer, vision)
        self.context = context or ContextConfig()
        self.reserve = reserve

    def conversation(self, env: gym.Env[Any, Any]) -> Conversation:
        """A fresh conversation, as the learner would see it."""
        return Conversation(
            self.format, system_message(env, self.context), self.context, self.reserve
        )

    def act(self, requests: Sequence[TurnRequest]) -> list[TurnOutput]:
        """Turn what was consulted into answers."""
        outputs = []
        for request in requests:
            if request.consulted is None:
                raise ConfigError("EnvPolicy was asked to act without having been consulted")
            prompt = _prompt(request.conversation)
            if isinstance(prompt, TurnOutput):
                outputs.append(prompt)
                continue
            ids = None if self.format is None else self.format.answer(request.consulted)
            request.conversation.reply(request.consulted, ids)
            completion = Completion(request.consulted, ids)
            outputs.append(
                TurnOutput(
                    completion,
                    prompt.ids,
                    prompt.extends,
                    images=prompt.images,
                    overflow=not prompt.fits,
                )
            )
        return outputs


def _prompt(conversation: Conversation) -> Prompt | TurnOutput:
    """The next prompt; where a picture cannot be shown, an answer that breaks its episode alone."""
    try:
        return conversation.prompt()
    except ImageError as error:
        failed = Completion("", None, finish_reason="error", error=str(error))
        return TurnOutput(failed, NO_TOKENS, False)


def oracle_policy(*, noise: float = 0.0, **kwargs: Any) -> EnvPolicy:
    """The environment's scripted expert (`AgentEnv.oracle_action`).

    Args:
        noise: probability, at each turn, of a draw from the action space instead; both the coin and
            the draw are seeded by the episode.
        kwargs: of `EnvPolicy`.
    """

    def consult(env: gym.Env[Any, Any]) -> str:
        if noise and env.action_space.np_random.random() < noise:
            return str(env.action_space.sample())
        action: str = env.get_wrapper_attr("oracle_action")()
        return action

    return EnvPolicy(consult, Source.SYNTHETIC if noise else Source.EXPERT, **kwargs)


def random_policy(**kwargs: Any) -> EnvPolicy:
    """Draws from the environment's action space, seeded by the episode."""

    def consult(env: gym.Env[Any, Any]) -> str:
        return str(env.action_space.sample())

    return EnvPolicy(consult, Source.RANDOM, **kwargs)


def system_message(env: gym.Env[Any, Any], context: ContextConfig) -> str:
    """Instructions followed by the environment's actions."""
    if not context.describe:
        return context.instructions
    try:
        actions = env.get_wrapper_attr("action_set")
        syntax = env.get_wrapper_attr("action_syntax")
    except AttributeError:
        return context.instructions
    return f"{context.instructions}\n{actions.describe(syntax)}"
