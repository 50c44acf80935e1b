"""Scripted solutions of MiniWoB++ tasks: they validate the tasks and make demonstrations.

An oracle reads what the agent reads, the goal and the page's elements, so that a model can learn
the same mapping. The few that need more, because the page hides it from a text observation, are
named in `PRIVILEGED`; they validate their tasks but are not for demonstrations.
"""

from agentgym.environments.web.oracles import apps as apps
from agentgym.environments.web.oracles import clicking as clicking
from agentgym.environments.web.oracles import controls as controls
from agentgym.environments.web.oracles import dragging as dragging
from agentgym.environments.web.oracles import forms as forms
from agentgym.environments.web.oracles import posts as posts
from agentgym.environments.web.oracles import reading as reading
from agentgym.environments.web.oracles import shapes as shapes
from agentgym.environments.web.oracles.base import (
    ORACLES,
    Oracle,
    OracleContext,
    Step,
    oracle,
    privileged_tasks,
)

PRIVILEGED: frozenset[str] = privileged_tasks()
"""Tasks whose oracle knows what the text observation does not show."""

__all__ = ["ORACLES", "PRIVILEGED", "Oracle", "OracleContext", "Step", "oracle"]
