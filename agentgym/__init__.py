"""A training gym for language-model agents.

Importing registers the environment ids with Gymnasium, as strings: afterwards
``gym.make("agentgym/miniwob.click-test-v0")`` works. The public names load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from agentgym.registry import load_plugins

if TYPE_CHECKING:
    from agentgym.actions import ActionCall as ActionCall
    from agentgym.actions import ActionSet as ActionSet
    from agentgym.actions import ActionSpec as ActionSpec
    from agentgym.actions import Parameter as Parameter
    from agentgym.core import AgentEnv as AgentEnv
    from agentgym.core import GenerationRequest as GenerationRequest
    from agentgym.core import SamplingParams as SamplingParams
    from agentgym.errors import AgentGymError as AgentGymError
    from agentgym.policy import EnvPolicy as EnvPolicy
    from agentgym.policy import LanguagePolicy as LanguagePolicy
    from agentgym.policy import oracle_policy as oracle_policy
    from agentgym.policy import random_policy as random_policy
    from agentgym.registry import REWARDS as REWARDS
    from agentgym.registry import TRAINERS as TRAINERS
    from agentgym.rollout import RolloutConfig as RolloutConfig
    from agentgym.rollout import collect as collect
    from agentgym.rollout import make_env as make_env
    from agentgym.types import EndReason as EndReason
    from agentgym.types import Observation as Observation
    from agentgym.types import Task as Task
    from agentgym.types import Trajectory as Trajectory
    from agentgym.types import Turn as Turn
    from agentgym.types import Verdict as Verdict

__version__ = "0.1.0"

_PUBLIC = {
    "actions": ("ActionCall", "ActionSet", "ActionSpec", "Parameter"),
    "core": ("AgentEnv", "GenerationRequest", "SamplingParams"),
    "errors": ("AgentGymError",),
    "policy": ("EnvPolicy", "LanguagePolicy", "oracle_policy", "random_policy"),
    "registry": ("REWARDS", "TRAINERS"),
    "rollout": ("RolloutConfig", "collect", "make_env"),
    "types": ("EndReason", "Observation", "Task", "Trajectory", "Turn", "Verdict"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'agentgym' has no attribute {name!r}")
    return getattr(importlib.import_module(f"agentgym.{_MODULE_OF[name]}"), name)


load_plugins()
