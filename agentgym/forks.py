"""An episode copied in mid-play: for tree search, branching and checkpoints of environments."""

import copy
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

from agentgym.core import AgentEnv
from agentgym.errors import ConfigError

Env = gym.Env[Any, Any]
_DATA = (bool, int, float, str, list, tuple, dict, deque, np.ndarray, type(None))


def fork(env: Env) -> Env:
    """A second environment, wrapped alike, at the same point of the same episode.

    It is made from the first one's spec and never reset: the episode comes by
    `AgentEnv.snapshot` and `AgentEnv.restore`, what wrappers count (turns left, statistics) is
    copied. The two share nothing afterwards; close both.

    Args:
        env: from `gymnasium.make`, reset, with `AgentEnv.can_snapshot`.

    Raises:
        ConfigError: the environment takes no snapshots, or cannot be made again from its spec.

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
    snapshot = inner.snapshot()
    twin = _made_again(env)
    try:
        assert isinstance(twin.unwrapped, AgentEnv)
        twin.unwrapped.restore(snapshot)
        for ours, theirs in zip(_wrappers(env), _wrappers(twin), strict=True):
            for name, value in vars(ours).items():
                if name != "env" and isinstance(value, _DATA):
                    setattr(theirs, name, copy.deepcopy(value))
    except BaseException:
        twin.close()
        raise
    return twin


def _made_again(env: Env) -> Env:
    if env.spec is None:
        raise ConfigError(f"{env} has no spec; make it by gymnasium.make to fork it")
    try:
        twin = gym.make(env.spec)
    except ValueError as error:  # a wrapper that does not keep its arguments
        raise ConfigError(f"{env} cannot be made again to fork it: {error}") from error
    if [type(w) for w in _wrappers(env)] != [type(w) for w in _wrappers(twin)]:
        twin.close()
        raise ConfigError(
            f"{env} is wrapped otherwise than its spec says; put wrappers around it that keep "
            "their arguments (gymnasium.utils.RecordConstructorArgs)"
        )
    return twin


def _wrappers(env: Env) -> list[gym.Wrapper[Any, Any, Any, Any]]:
    """From the outermost one."""
    layers = []
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        layers.append(layer)
        layer = layer.env
    return layers
