"""Every exception of the project: one base, one class per boundary.

Four rules. (1) An agent's bad output is an observation, never an exception. (2) A broken episode is
a record (`Trajectory.end`, `Trajectory.error`), not a crash. (3) A judge that could not tell is
`score=None`, never 0. (4) Whatever is raised says what is wrong, the value, and what to do.
"""

import difflib
from collections.abc import Iterable


class AgentGymError(Exception):
    """Base of every exception that the project raises on purpose."""


class ConfigError(AgentGymError, ValueError):
    """A recipe, a command-line value or an argument is wrong."""


class UnknownNameError(AgentGymError, LookupError):
    """A name is not registered; the message suggests the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = (
            f"Did you mean {', '.join(repr(n) for n in near)}?"
            if near
            else f"Known: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
            if known
            else "Nothing is registered"
        )
        super().__init__(f"{kind} {name!r} is not known. {hint}")
        self.name = name
        self.suggestions = near


class ImageError(AgentGymError, ValueError):
    """Bytes are no picture that can be shown, or a prompt has no place for it."""


class MissingDependencyError(AgentGymError, ImportError):
    """A package or program of an extra is not installed; the message says how to get it."""


class ActionParseError(AgentGymError, ValueError):
    """Model text is not an action. Environments turn it into the next observation's error."""


class EnvFailureError(AgentGymError):
    """The environment failed (not the agent): the episode is masked and retried, never reward 0."""


class BrowserError(EnvFailureError):
    """Chromium, a page or its connection failed."""


class ScriptError(BrowserError):
    """JavaScript that was run on a page threw."""


class EpisodeOverError(AgentGymError, RuntimeError):
    """`step` was called before `reset` or after the episode's end."""


class InferenceError(AgentGymError):
    """A backend could not answer; the episode is masked, never reward 0."""


class TrainingError(AgentGymError):
    """A trainer cannot go on, for instance because its gradients are no longer finite."""


class StoreError(AgentGymError):
    """A trajectory store or checkpoint cannot be read or written."""
