"""Where runs, data and caches are, and the only reader of environment variables.

``AGENTGYM_RUNS`` (default ``runs``), ``AGENTGYM_DATA`` (default ``data``), ``AGENTGYM_CHROMIUM``
(path of a Chromium program), ``AGENTGYM_CACHE`` (default ``~/.cache/agentgym``).
``WORLD_SIZE`` is set by `accelerate launch` and `torchrun`.
"""

import os
from pathlib import Path


def runs() -> Path:
    """Folder of training and evaluation runs."""
    return Path(os.environ.get("AGENTGYM_RUNS", "runs"))


def data() -> Path:
    """Folder of data sets that a run reads or writes."""
    return Path(os.environ.get("AGENTGYM_DATA", "data"))


def cache() -> Path:
    """Folder of things that can be made again, such as compiled games."""
    default = Path.home() / ".cache" / "agentgym"
    return Path(os.environ.get("AGENTGYM_CACHE", default))


def chromium() -> str | None:
    """Chromium that the user asked for, if any."""
    return os.environ.get("AGENTGYM_CHROMIUM") or None


def launched_processes() -> int:
    """How many processes a launcher started of this program; 1 without a launcher."""
    told = os.environ.get("WORLD_SIZE", "")
    return max(1, int(told)) if told.isdecimal() else 1


def variable(name: str) -> str | None:
    """An environment variable by name (API keys of endpoints, named in the configuration)."""
    return os.environ.get(name)


def environment(**changes: str) -> dict[str, str]:
    """The environment variables for a child process: this process's own, with changes."""
    return {**os.environ, **changes}
