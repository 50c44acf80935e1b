"""Names to things: registries with helpful errors, and the plug-ins that fill them."""

import importlib
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from agentgym.errors import AgentGymError, UnknownNameError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Registry(Generic[T]):
    """Names to lazily imported objects.

    Example:
        >>> registry: Registry[Any] = Registry("number")
        >>> registry.register("pi", "math:pi")
        >>> registry.get("pi") > 3
        True
        >>> registry.get("pie")
        Traceback (most recent call last):
        agentgym.errors.UnknownNameError: number 'pie' is not known. Did you mean 'pi'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, tuple[str | T, str]] = {}

    def register(self, name: str, target: str | T, doc: str = "") -> None:
        """Give `name` to an object, or to ``"module:attribute"`` imported on first use.

        Raises:
            AgentGymError: the name is taken by something else.
        """
        known = self._entries.get(name)
        if known is not None and known[0] != target:
            raise AgentGymError(
                f"{self.kind} {name!r} is already registered as {known[0]!r}; choose another name"
            )
        self._entries[name] = (target, doc)

    def get(self, name: str) -> T:
        """The object of that name, imported if need be.

        Raises:
            UnknownNameError: no such name; the nearest ones are suggested.
        """
        if name not in self._entries:
            load_plugins()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        target, doc = self._entries[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            loaded: T = getattr(importlib.import_module(module), attribute)
            self._entries[name] = (loaded, doc)
            return loaded
        return target

    def doc(self, name: str) -> str:
        """The one-line description given at registration."""
        self.get(name)
        return self._entries[name][1]

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        load_plugins()
        return len(self._entries)


REWARDS: Registry[Callable[..., Any]] = Registry("reward")
"""Reward classes: `core.Reward`."""
TRAINERS: Registry[Any] = Registry("trainer")
"""Trainer classes: `core.Trainer`."""
BACKENDS: Registry[Callable[..., Any]] = Registry("backend")
"""Inference backend classes: `core.InferenceBackend`."""
BENCHMARKS: Registry[Callable[..., Any]] = Registry("benchmark")
"""What `agentgym bench` runs: `bench.BenchmarkOptions` to `bench.Benchmark`."""
EXPECTATIONS: Registry[Any] = Registry("expectation")
"""Mappings, from patterns of ids (as `fnmatch` reads them) to the `core.Expectation` there."""

BACKENDS.register("engine", "agentgym.inference.engine:Engine", "continuous batching, fast")
BACKENDS.register("hf", "agentgym.inference.hf:HFBackend", "transformers, in this process")
BACKENDS.register("openai", "agentgym.inference.remote:OpenAIBackend", "OpenAI-compatible server")
BACKENDS.register("vllm", "agentgym.inference.vllm:VLLMBackend", "vLLM, started by this process")
BACKENDS.register("scripted", "agentgym.inference.scripted:ScriptedBackend", "given answers")
BENCHMARKS.register("rollout", "agentgym.rollout_benchmark:rollout", "episodes with a model")
BENCHMARKS.register("inference", "agentgym.inference.benchmark:inference", "growing conversations")

PLUGIN_GROUP = "agentgym.plugins"
# Our own families register the same way; named here too so that a checkout that is not installed
# has them. Strings: the core imports no family.
_OWN = tuple(f"agentgym.{family}:register" for family in ("environments", "rewards", "trainers"))
_loaded: set[str] = set()


def load_plugins() -> list[str]:
    """Call every plug-in's `register` once; a broken one is named, the others still load.

    Returns:
        Problems, one line each.
    """
    problems: list[str] = []
    for value in (*_OWN, *(entry.value for entry in entry_points(group=PLUGIN_GROUP))):
        if value in _loaded:
            continue
        _loaded.add(value)
        module, _, attribute = value.partition(":")
        try:
            getattr(importlib.import_module(module), attribute)()
        except Exception as error:  # a third party's fault must not stop ours
            if value in _OWN:
                raise
            problems.append(f"plug-in {value!r} of {PLUGIN_GROUP} failed: {error!r}")
    for problem in problems:
        _log.warning(problem)
    return problems
