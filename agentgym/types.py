"""The records that flow from environment to trainer: plain, frozen, numpy at most.

Dimension letters used everywhere: B batch, N turns, P prompt tokens, T action tokens, L row length,
H W image height and width, V vocabulary.

A record stores what was sampled, never what can be rendered again: token ids with their
log-probabilities and the version of the weights that sampled them. Text is for people and judges.
`None` is not 0: an episode that the environment broke has no outcome at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int32]
FloatArray: TypeAlias = npt.NDArray[np.float32]
ImageArray: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 3) RGB

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]

NO_TOKENS: IntArray = np.zeros(0, dtype=np.int32)
NO_TOKENS.setflags(write=False)


class EndReason(StrEnum):
    """Why an episode ended. A closed list: the agent's reasons are scored, the others are not."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNJUDGED = "unjudged"
    """The agent ended the episode, and only a judge can tell how well."""
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"
    ENV_ERROR = "env_error"
    ENV_TIMEOUT = "env_timeout"
    EPISODE_TIMEOUT = "episode_timeout"
    INFERENCE_ERROR = "inference_error"
    ABORTED = "aborted"

    @property
    def is_agents(self) -> bool:
        """True if the agent answers for the end, so that the episode has an outcome."""
        return self in _AGENTS_REASONS


_AGENTS_REASONS = frozenset(
    {EndReason.SUCCESS, EndReason.FAILURE, EndReason.TURN_LIMIT, EndReason.TOKEN_LIMIT}
)


class Source(StrEnum):
    """Who chose the actions of a trajectory."""

    POLICY = "policy"
    EXPERT = "expert"
    RANDOM = "random"
    HUMAN = "human"
    SEARCH = "search"
    SYNTHETIC = "synthetic"


class Observation(TypedDict):
    """What an environment shows: the Gymnasium observation of every environment here."""

    goal: str
    """The task in words; the same at every turn of an episode."""
    text: str
    """The current state as text."""
    error: str
    """What was wrong with the last action; empty if nothing was."""
    image: NotRequired[ImageArray]
    """(H, W, 3) uint8 RGB, only if the environment was made with images."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture by content: written once however many turns show it."""

    sha256: str
    data: bytes | None = field(default=None, repr=False, compare=False)
    """The PNG file's bytes; `None` once stored (`TrajectoryStore.image` reads it back)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str
    """Its text, without the pictures in it."""
    images: tuple[tuple[int, Image], ...] = ()
    """Pictures in order, each with the index into `content` before which it stands."""

    @property
    def parts(self) -> tuple["str | Image", ...]:
        """Text and pictures as they alternate; no text is empty.

        Example:
            >>> red = Image("ab")
            >>> Message("user", "See this.", ((4, red),)).parts
            ('See ', Image(sha256='ab'), 'this.')
        """
        parts: list[str | Image] = []
        begin = 0
        for place, image in self.images:
            parts += [self.content[begin:place], image]
            begin = place
        parts.append(self.content[begin:])
        return tuple(part for part in parts if part != "")


@dataclass(frozen=True, slots=True)
class Task:
    """What to do: an environment id, its seed and options. Equal tasks start equal episodes."""

    env_id: str
    seed: int
    goal: str = ""
    """Filled from the first observation once the episode has begun."""
    split: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Given to `reset(options=...)`; JSON values only."""

    @property
    def id(self) -> str:
        """Stable name of the task, e.g. ``agentgym/miniwob.click-test-v0#17``."""
        return f"{self.env_id}#{self.seed}"


@dataclass(frozen=True, slots=True)
class Completion:
    """What a backend returns for one request."""

    text: str
    token_ids: IntArray | None
    """(T,) sampled ids including the end token; `None` if the server does not tell."""
    logprobs: FloatArray | None = None
    """(T,) nats, of the untruncated distribution at temperature 1."""
    kept_mass: FloatArray | None = None
    """(T,) probability that top-k/top-p kept, at the sampling temperature; 1 if untruncated."""
    entropy: FloatArray | None = None
    """(T,) nats, of the untruncated distribution at temperature 1."""
    finish_reason: FinishReason = "stop"
    weights_version: int = 0
    error: str = ""
    """Why this request alone failed (`finish_reason == "error"`)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the agent saw, the tokens it wrote, what followed."""

    observation: str
    """Text of the observation that the action answers."""
    prompt_ids: IntArray
    """(P,) tokens put before the action. If `extends`, they continue the tokens of the turn
    before (its prompt and action); otherwise they are the whole context."""
    extends: bool
    action_ids: IntArray | None
    """(T,) sampled tokens; `None` if the backend did not tell them."""
    text: str
    """What the agent wrote, in full."""
    logprobs: FloatArray | None = None
    kept_mass: FloatArray | None = None
    entropy: FloatArray | None = None
    weights_version: int = 0
    temperature: float = 1.0
    finish_reason: FinishReason = "stop"
    observation_error: str = ""
    """The error that the observation carried (about the action before)."""
    image: Image | None = None
    """What the observation showed."""
    prompt_images: tuple[Image, ...] = ()
    """Pictures that `prompt_ids` has placeholders of, in order."""
    thought: str = ""
    action: str = ""
    """The call as the environment understood it, in Python syntax; empty if it did not parse."""
    action_error: str = ""
    """Why the action did not parse or could not be carried out; empty if it was."""
    parsed: bool = True
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    state_key: str | None = None
    """The environment's own name for the state, for methods that group equal states."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """JSON values only."""
    cost: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Seconds: ``env_s``, ``generate_s``. Wall-clock, so left out of comparisons."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge's opinion of one trajectory."""

    score: float | None
    """In [0, 1]; `None` if the judge could not tell."""
    judge: str
    reason: str = ""
    turn_scores: tuple[float | None, ...] = ()
    """(N,) per-turn scores, or empty."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode: enough to judge it and to train on it without its environment."""

    id: str
    task: Task
    turns: tuple[Turn, ...]
    end: EndReason
    outcome: float | None
    """1 success, 0 failure, between for partial credit; `None` if not the agent's to answer for."""
    source: Source = Source.POLICY
    policy: str = ""
    sample_seed: int = 0
    group_id: str = ""
    attempt: int = 0
    """How many attempts at this episode the environment broke before this one."""
    final_observation: str = ""
    final_error: str = ""
    final_image: Image | None = None
    final_prompt_ids: IntArray | None = None
    """(P,) the whole context that the policy would have answered next, had no limit ended the
    episode; `None` if it ended otherwise, or if that is not known or longer than the budget."""
    verdicts: tuple[Verdict, ...] = ()
    error: str = ""
    """What broke, if `end` is not the agent's."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reward(self) -> float:
        """Undiscounted sum of the environment's rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def success(self) -> bool:
        """True if the episode is scored and its outcome is full."""
        return self.outcome is not None and self.outcome >= 1.0

    @property
    def truncated(self) -> bool:
        """True if a limit on turns or tokens cut the episode: its end may be bootstrapped."""
        limits = (EndReason.TURN_LIMIT, EndReason.TOKEN_LIMIT)
        return bool(self.turns) and (self.turns[-1].truncated or self.end in limits)
