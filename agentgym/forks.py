"""An episode copied in mid-play: for tree search, branching and checkpoints of environments."""

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from agentgym.core import AgentEnv
from agentgym.errors import ConfigError

Env = gym.Env[Any, Any]


def fork(env: Env) -> Env:
    """A second environment, wrapped alike, at the same point of the same episode.

    Args:
        env: from `gymnasium.make`, reset, with `AgentEnv.can_snapshot`.

    Raises:
        ConfigError: the environment takes no snapshots, or was not made by `gymnasium.make`.

    Example:
        >>> env = gym.make("agentgym/maze-v0")
        >>> _ = env.reset(seed=3)
        >>> copy = fork(env)
        >>> action = env.unwrapped.oracle_action()
        >>> copy.step(action)[:4] == env.step(action)[:4]
        True
    """
    inner = env.unwrapped
    if not isinstance(inner, AgentEnv) or not inner.can_snapshot:
        raise ConfigError(f"{inner} takes no snapshots, so its episodes cannot be forked")
    if env.spec is None:
        raise ConfigError(f"{env} has no spec; make it by gymnasium.make to fork it")
    # The copy is reset by `make`d wrappers' own rules, then put at the same point.
    copy = gym.make(env.spec, disable_env_checker=True)
    copy.reset(seed=0)
    assert isinstance(copy.unwrapped, AgentEnv)
    copy.unwrapped.restore(inner.snapshot())
    ours, theirs = _limit(env), _limit(copy)
    if ours is not None and theirs is not None:
        theirs._elapsed_steps = ours._elapsed_steps
    return copy


def _limit(env: Env) -> Any:
    """The wrapper that counts the turns."""
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, TimeLimit):
            return layer
        layer = layer.env
    return None
