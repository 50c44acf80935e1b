"""`agentgym validate`: is every environment won by its expert, and by nobody else?

Three agents play each environment: its own expert; chance, which draws from the action space; and a
hostile one, whose text means nothing. The expert must win, the others must not, and nobody may
break anything. No model is needed. The rule is `core.Expectation`'s default, the exceptions are
registered in `registry.EXPECTATIONS` and say why. Rates are compared by their Wilson intervals: an
environment fails only if its rate is certain enough to be out of bounds.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import gymnasium as gym

from agentgym.core import Expectation
from agentgym.errors import ConfigError, MissingDependencyError
from agentgym.progress import Progress
from agentgym.registry import EXPECTATIONS
from agentgym.rollout import make_env
from agentgym.seeding import derive
from agentgym.stats import wilson_interval

EPISODES = 20
"""Of each agent in each environment."""
SECONDS = 2.0
"""After which an agent begins no more episodes in an environment, once it has played `LEAST`."""
LEAST = 2
TURNS = 1000
"""Of an episode whose environment has no limit of its own."""
HOSTILE = (
    "",
    "\x00",
    "\ud800 \U0010ffff",
    "a" * 100_000,
    "\n" * 10_000,
    '{"name": "x", "arguments": {',
    "f(" * 1000,
    "quit",
    "__import__('os')",
    "<script>1</script> %s {0} \\N{BULLET}",
)
"""What no environment may mistake for a winning action, nor break at."""

Env = gym.Env[Any, Any]
Agent = Callable[[Env, int], str]
"""The environment and the number of the turn to an action's text."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often an agent won."""

    successes: int
    episodes: int
    low: float
    high: float
    """Wilson 95 % interval."""
    mean_return: float
    mean_turns: float


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found about one environment."""

    env_id: str
    expected: Expectation
    rates: Mapping[str, Rate]
    """By agent: "oracle" (if there is one), "random", "hostile"."""
    problems: tuple[str, ...]
    """Why the environment fails; empty if it does not."""

    @property
    def sound(self) -> bool:
        """True if there is no problem."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "problems": list(self.problems), "sound": self.sound}


def matching(pattern: str) -> list[str]:
    """Registered ids of this project that a pattern names.

    Args:
        pattern: a folder of environments, such as ``text``; or else a part of ids; or empty.

    Raises:
        ConfigError: there are none.
    """
    ours = [spec for spec in gym.registry.values() if spec.namespace == "agentgym"]
    folder = [spec.id for spec in ours if f".environments.{pattern}." in str(spec.entry_point)]
    ids = folder or [spec.id for spec in ours if pattern in spec.id]
    if not ids:
        raise ConfigError(f"no environment matches {pattern!r}; see `agentgym envs`")
    return sorted(ids)


def expectation(env_id: str) -> Expectation:
    """What is asked of an environment: the first exception whose pattern fits, or the rule."""
    for family in EXPECTATIONS:
        for pattern, expected in EXPECTATIONS.get(family).items():
            if fnmatchcase(env_id, pattern):
                return cast(Expectation, expected)
    return Expectation()


def validate(
    env_ids: Sequence[str],
    *,
    episodes: int = EPISODES,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Validation], dict[str, str]]:
    """Let the three agents play every environment.

    Args:
        env_ids: registered ids.
        episodes: of each agent in each environment; episode i has the seed ``seed + i``.
        seconds: of each agent in each environment, see `SECONDS`.
        seed: first seed.
        progress: shows how far it is.

    Returns:
        What was found, in order; and, by id, why some environments cannot run on this machine.

    Raises:
        ConfigError: there is nothing to play.
        UnknownNameError: an id is not registered.
    """
    if episodes < 1:
        raise ConfigError(f"need episodes >= 1, got {episodes!r}")
    found: list[Validation] = []
    skipped: dict[str, str] = {}
    shown = progress or Progress(quiet=True)
    with shown.phase("validate", len(env_ids), "environments") as bar:
        for env_id in env_ids:
            try:
                found.append(_validate(env_id, expectation(env_id), episodes, seconds, seed))
            except MissingDependencyError as error:
                skipped[env_id] = str(error)
            bar.advance(1)
    return found, skipped


def _validate(
    env_id: str, expected: Expectation, episodes: int, seconds: float, seed: int
) -> Validation:
    env = make_env(env_id)
    rates: dict[str, Rate] = {}
    problems: list[str] = []
    agents: dict[str, Agent] = {
        "oracle": lambda env, turn: str(env.get_wrapper_attr("oracle_action")()),
        "random": lambda env, turn: str(env.action_space.sample()),
        "hostile": lambda env, turn: HOSTILE[turn % len(HOSTILE)],
    }
    if not getattr(env.unwrapped, "has_oracle", False):
        del agents["oracle"]
    try:
        for name, agent in agents.items():
            played, broken = _play(env, agent, episodes, seconds, seed)
            problems += [f"{name}: {problem}" for problem in broken]
            if played:
                rates[name] = _rate(played)
                problems += _misses(name, rates[name], expected)
    finally:
        env.close()
    return Validation(env_id, expected, rates, tuple(problems))


def _misses(name: str, rate: Rate, expected: Expectation) -> list[str]:
    """What is wrong with a rate, if it is certain enough."""
    allowed: float = getattr(expected, name)
    won = f"{name} won {rate.successes} of {rate.episodes}"
    if name == "oracle":
        return [f"{won}, expected {allowed:.0%}"] if rate.high < allowed else []
    return [f"{won}, allowed are {allowed:.0%}"] if rate.low > allowed else []


_Episode = tuple[bool, float, int]
"""Won, return, turns."""


def _play(
    env: Env, agent: Agent, episodes: int, seconds: float, seed: int
) -> tuple[list[_Episode], list[str]]:
    """Episodes that were played to their end, and what broke the others: one line each."""
    played: list[_Episode] = []
    broken: list[str] = []
    began = time.monotonic()
    for number in range(episodes):
        if number >= LEAST and time.monotonic() - began > seconds:
            break
        try:
            played.append(_episode(env, agent, seed + number))
        except MissingDependencyError:
            raise
        except Exception as error:  # whatever it is, the environment must not raise it
            broken.append(f"seed {seed + number} raised {type(error).__name__}: {error}")
            break  # the others would most likely say the same
    return played, broken


def _episode(env: Env, agent: Agent, seed: int) -> _Episode:
    env.action_space.seed(derive(seed, "validate") % 2**32)
    env.reset(seed=seed)
    total = 0.0
    for turn in range(TURNS):
        _, reward, terminated, truncated, info = env.step(agent(env, turn))
        total += float(reward)
        if terminated or truncated:
            break
    if not math.isfinite(total):
        raise ValueError(f"the return is {total!r}")
    return bool(info.get("success", False)), total, turn + 1


def _rate(played: Sequence[_Episode]) -> Rate:
    successes, count = sum(won for won, _, _ in played), len(played)
    return Rate(
        successes,
        count,
        *wilson_interval(successes, count),
        mean_return=sum(total for _, total, _ in played) / count,
        mean_turns=sum(turns for _, _, turns in played) / count,
    )
