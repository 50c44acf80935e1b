"""The contracts: environment, policy, inference backend, reward, trainer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import gymnasium as gym

from agentgym.types import (
    Completion,
    FloatArray,
    Image,
    IntArray,
    Message,
    Observation,
    Source,
    Trajectory,
    Verdict,
)

if TYPE_CHECKING:
    from agentgym.actions import ActionSet
    from agentgym.chat import Conversation


class AgentEnv(gym.Env[Observation, str]):
    """Base of every environment here: text (and images) in, one line of action text in.

    On top of Gymnasium's rules:

    * the action is the model's text; the environment parses it with `action_set`. Text that does
      not parse, or an action that cannot be carried out, is told in the next observation's
      ``error`` and never raised;
    * `step`'s info holds ``action`` (canonical call, "" if unparsed), ``action_error`` ("" if
      fine), ``parsed`` (bool), ``thought`` (text before the call) and, when the episode ends by
      itself, ``success`` (bool; None if only a judge can tell, so that the episode has no outcome
      until one has). `ActionSet.read` and `step_info` make these. Where the domain has
      them, ``admissible_actions`` (list of str) and ``state_key`` (str) are in both infos;
    * info holds JSON values only, and nothing that differs between equal episodes (no wall-clock);
    * a failure of the environment itself raises `EnvFailureError`, never a reward of 0;
    * every method may be called from any thread, one call at a time;
    * `diagnostics` holds what may differ between equal episodes, such as timings.
    """

    action_set: "ActionSet"
    action_syntax: str = "python"
    diagnostics: dict[str, Any]

    def oracle_action(self) -> str:
        """The next action of a scripted expert, as the model would write it.

        Raises:
            NotImplementedError: this environment has no oracle (`has_oracle` is False).
        """
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    @property
    def has_oracle(self) -> bool:
        """True if `oracle_action` works."""
        return False

    def snapshot(self) -> bytes:
        """The episode as it stands, chance to come included: JSON, never pickle.

        From equal snapshots, equal actions lead to equal observations, rewards and infos.

        Raises:
            NotImplementedError: this environment cannot (`can_snapshot` is False).
        """
        raise NotImplementedError(f"{type(self).__name__} takes no snapshots")

    def restore(self, snapshot: bytes) -> tuple[Observation, dict[str, Any]]:
        """Go on from a snapshot that an environment made with the same arguments took.

        Returns:
            The observation and info of that moment, as `reset` returns them.

        Raises:
            ConfigError: the bytes are no snapshot of such an environment; nothing has changed.
            NotImplementedError: see `snapshot`.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no snapshots")

    @property
    def can_snapshot(self) -> bool:
        """True if `snapshot` and `restore` work; `agentgym.forks.fork` then copies an episode."""
        return False


@dataclass(frozen=True, slots=True)
class Expectation:
    """How often an environment may be won, as `agentgym validate` checks it."""

    oracle: float = 1.0
    """Success rate that its scripted expert reaches at least."""
    random: float = 0.1
    """Success rate that random actions reach at most."""
    hostile: float = 0.0
    """Success rate that text which means nothing reaches at most."""
    why: str = ""
    """Why this environment is an exception."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample; a temperature of 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    """Generation ends after one of these strings; its tokens are kept in `token_ids`, its text
    is cut from `text`."""


WeightsChoice: TypeAlias = Literal["policy", "base"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt for a backend, as exact ids and, for servers that take no ids, as messages."""

    prompt_ids: IntArray
    """(P,)"""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    messages: tuple[Message, ...] = ()
    weights: WeightsChoice = "policy"
    """``base`` answers with the adapters of a LoRA model switched off; without adapters both are
    the same."""
    images: tuple[Image, ...] = ()
    """Pictures that `prompt_ids` has placeholders of, in order, with their bytes."""


@runtime_checkable
class InferenceBackend(Protocol):
    """Batched generation. Knows tokens, not chats."""

    version: int
    """Version of the weights that answer now; 0 before any update."""
    concurrency: int
    """How many `generate` calls may run at the same time (1 for an in-process model)."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order. One bad request fails alone (`Completion.error`).

        Raises:
            InferenceError: nothing could be answered at all.
        """
        ...

    def logprobs(self, sequences: Sequence[IntArray], starts: Sequence[int]) -> list[FloatArray]:
        """Log-probabilities of given tokens; "hf" and "engine" also take ``images=``.

        Args:
            sequences: each (L,) ids.
            starts: for each, the first position to score (at least 1).

        Returns:
            For each, (L - start,) nats.
        """
        ...

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Take new weights: name to tensor, a subset is allowed."""
        ...

    def close(self) -> None:
        """Free everything; may be called twice."""
        ...


class Ticket(Protocol):
    """A request that is being answered."""

    @property
    def done(self) -> bool:
        """True if `result` returns at once."""
        ...

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the answer.

        Args:
            timeout: seconds to wait at most; `None` waits as long as it takes.

        Returns:
            The answer. A request that could not be answered has `Completion.error`; an aborted
            one has `finish_reason` ``abort`` and the tokens that it came to.

        Raises:
            TimeoutError: not answered yet; the request goes on.
        """
        ...

    def abort(self) -> None:
        """Stop answering. Changes nothing if the answer is complete."""
        ...


@runtime_checkable
class StreamingBackend(InferenceBackend, Protocol):
    """A backend that answers requests from many threads as they come."""

    def submit(
        self,
        request: GenerationRequest,
        *,
        on_tokens: Callable[[Sequence[int]], None] | None = None,
    ) -> Ticket:
        """Queue a request and return at once. May be called from any thread.

        Args:
            request: a bad one gets a ticket too, whose result has the reason.
            on_tokens: told every sampled token once, in order, as soon as it is there, the end
                token included. Called in the backend's own thread: it must return quickly. What
                it raises ends this request alone. All calls are over when the ticket is done.

        Raises:
            InferenceError: the backend is closed.
        """
        ...


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a policy answers: a conversation whose last message is the observation."""

    conversation: "Conversation"
    seed: int
    consulted: str | None = None
    """What the policy's own `consult` returned for this turn."""


@dataclass(frozen=True, slots=True)
class TurnOutput:
    """What a policy answered. `prompt_ids` and `extends` are as in `types.Turn`."""

    completion: Completion
    prompt_ids: IntArray
    extends: bool
    temperature: float = 1.0
    images: tuple[Image, ...] = ()
    """Pictures that `prompt_ids` has placeholders of, in order."""
    overflow: bool = False
    """True if the prompt would not fit the token budget: the episode ends by `TOKEN_LIMIT`."""


class Policy(Protocol):
    """Observations to actions, many episodes at a time."""

    name: str
    source: Source
    concurrency: int
    consult: Callable[[gym.Env[Any, Any]], str] | None
    """If set, called in the environment's own thread before each turn (oracle, random, human)."""

    def conversation(self, env: gym.Env[Any, Any]) -> "Conversation":
        """A fresh conversation for an episode of this environment."""
        ...

    def act(self, requests: Sequence[TurnRequest]) -> list[TurnOutput]:
        """One turn for each conversation."""
        ...


class Reward(Protocol):
    """Judges trajectories in batches; order and length are kept."""

    name: str

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """One verdict each; `score=None` where the judge could not tell."""
        ...


class Trainer(Protocol):
    """One method: how a batch of trajectories changes the model.

    An update is `start`, then `step` until `done`; between any two steps the state can be saved
    and a new trainer goes on from it exactly.
    """

    name: str
    config_class: type[Any]
    model: Any
    """The module that is trained; a backend may sample from the very same object."""
    planned_steps: int
    position: int
    # Optional: `act_with(backend, sampling)` is called by a run, for methods that sample while they
    # train; `backend()` gives the run's backend with the weights of that moment.

    def __init__(self, model: Any, tokenizer: Any, config: Any) -> None: ...

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Begin an update on these trajectories. Changes no weight."""
        ...

    def step(self) -> dict[str, float]:
        """One optimiser step; returns metrics of the step."""
        ...

    @property
    def done(self) -> bool:
        """True if the update has no step left."""
        ...

    def metrics(self) -> dict[str, float]:
        """Of the update so far."""
        ...

    def update(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """A whole update; returns its metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs: tensors, arrays and JSON values, nested."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        ...

    def weights(self) -> dict[str, Any]:
        """The trained tensors under the base model's names, adapters merged: for a backend."""
        ...

    def save_model(self, folder: Path) -> None:
        """Write the model in a form that `load_model` reads."""
        ...
