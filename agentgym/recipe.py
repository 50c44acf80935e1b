"""What a run does, as one frozen record: recipe file <-> record <-> command line."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from agentgym import config
from agentgym.chat import ContextConfig
from agentgym.core import SamplingParams
from agentgym.diagnostics import AlarmsConfig
from agentgym.errors import ConfigError, UnknownNameError
from agentgym.rollout import RolloutConfig
from agentgym.types import Task

_RECIPES = "agentgym.trainers.recipes"


@dataclass(frozen=True)
class NewModelConfig:
    """The size of a model from scratch."""

    vocabulary: int = 512
    """Tokens at most, learned from the demonstrations."""
    layers: int = 2
    """Of the transformer."""
    width: int = 128
    """Of its hidden states."""
    heads: int = 4
    """Of attention."""
    positions: int = 2048
    """Longest sequence, in tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model learns."""

    name: str = "smollm2-135m"
    """The embedded default, a hub name, a folder (also one that a run has saved), or "new": a small
    one from scratch, which the run makes and keeps in its folder."""
    new: NewModelConfig = field(default_factory=NewModelConfig)
    """Of the model "new"."""
    dtype: str = "auto"
    """"auto" takes bfloat16 where the hardware computes in it."""
    device: str = "auto"
    """"auto" takes an accelerator if there is one."""


@dataclass(frozen=True)
class TasksConfig:
    """Which tasks, and the seeds that training and evaluation never share."""

    env_ids: tuple[str, ...] = ()
    """Gymnasium ids; each weighs the same."""
    train_seed: int = 1_000_000
    """First seed of training episodes; they go up from here."""
    eval_seed: int = 0
    """First seed of evaluation episodes; the same ones every time."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How success is measured."""

    episodes_per_task: int = 12
    """Episodes of each environment id."""
    temperature: float = 0.0
    """Of the evaluated policy; 0 is greedy."""
    every: int = 0
    """Evaluate also after every so many iterations; 0 is before and after only."""
    before: Literal["auto", "given", "warmed"] = "auto"
    """Which model "before" is: as it was given, or after the warm start, which is what the online
    method begins with. "auto" is as given, unless the model is new and can do nothing yet."""


@dataclass(frozen=True)
class Recipe:
    """A repeatable run: evaluate, demonstrate, warm up, improve online, evaluate."""

    name: str = "run"
    """Names the run's folder."""
    description: str = ""
    """One line for people."""
    seed: int = 0
    """Every component draws from a stream of its own, derived from this."""
    trainer: str = "filtered_bc"
    """Registered name of the online method."""
    model: ModelConfig = field(default_factory=ModelConfig)
    backend: Literal["hf", "engine"] = "hf"
    """What samples: "hf" resumes bit by bit; "engine" is several times faster on episodes of many
    turns, and equal up to rounding."""
    backend_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the backend, such as the engine's `memory`: bytes for keys and values,
    which runs that share an accelerator must divide among them."""
    tasks: TasksConfig = field(default_factory=TasksConfig)
    env: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of every environment."""
    context: ContextConfig = field(default_factory=ContextConfig)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    demonstrations: int = 0
    """Episodes of the environments' oracles, per environment id."""
    demonstration_noise: float = 0.0
    """Probability, at each turn of a demonstration, of a random action instead of the oracle's."""
    warm_start: dict[str, Any] = field(default_factory=dict)
    """Config of the behaviour cloning on the demonstrations."""
    iterations: int = 1
    """Of the online method: collect, then update."""
    dataset: str = ""
    """Learn offline: a run's folder, or a trajectory store such as `agentgym data make` writes.
    Nothing is collected then; every iteration is an update on all of its training episodes, the
    demonstrations too."""
    episodes_per_task: int = 8
    """Episodes of each environment id in one iteration."""
    group_size: int = 1
    """Episodes of the same seed next to each other, for methods that compare them."""
    train: dict[str, Any] = field(default_factory=dict)
    """Config of the trainer."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    arms: dict[str, Any] = field(default_factory=dict)
    """Sides of `agentgym compare`: by name, the keys in which each differs. A table, such as
    `train`, takes the place of the recipe's. ``choose = {"key" = [value, ...]}`` tunes an arm
    first, ``tuned_as = "name"`` takes another's choice."""
    alarms: AlarmsConfig = field(default_factory=AlarmsConfig)
    sinks: tuple[str, ...] = ("jsonl",)
    """Where metrics go: ``jsonl`` always, and ``tensorboard``, ``trackio`` or ``wandb``."""
    checkpoint_every_s: float = 60.0
    """Seconds of training after which a checkpoint is written within an update too."""

    def __post_init__(self) -> None:
        if not self.tasks.env_ids:
            raise ConfigError("tasks.env_ids is empty; name at least one environment id")
        for name in ("demonstrations", "iterations"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not 0 <= self.demonstration_noise <= 1:
            raise ConfigError(
                f"demonstration_noise must be in [0, 1], got {self.demonstration_noise!r}"
            )
        if self.model.name == "new" and not self.demonstrations:
            raise ConfigError(
                "a model 'new' learns its tokens from demonstrations; set demonstrations to 1 or "
                "more"
            )
        if self.group_size < 1 or self.episodes_per_task % self.group_size:
            raise ConfigError(
                f"episodes_per_task ({self.episodes_per_task}) must be a multiple of group_size "
                f"({self.group_size})"
            )
        most = (
            self.tasks.train_seed + self.demonstrations + self.iterations * self.episodes_per_task
        )
        evaluated = range(self.tasks.eval_seed, self.tasks.eval_seed + self.eval_episodes)
        if evaluated and evaluated[0] < most and evaluated[-1] >= self.tasks.train_seed:
            raise ConfigError(
                f"evaluation seeds {evaluated[0]}..{evaluated[-1]} meet training seeds "
                f"{self.tasks.train_seed}..{most - 1}; move tasks.eval_seed or tasks.train_seed"
            )

    @property
    def eval_episodes(self) -> int:
        """Evaluation episodes of each environment id."""
        return self.evaluation.episodes_per_task

    def eval_tasks(self) -> list[Task]:
        """The evaluation's tasks, interleaved so that a batch holds all of them."""
        seeds = range(self.tasks.eval_seed, self.tasks.eval_seed + self.eval_episodes)
        return [Task(e, seed, split="test") for seed in seeds for e in self.tasks.env_ids]

    def demonstration_tasks(self) -> list[Task]:
        """The demonstrations' tasks."""
        first = self.tasks.train_seed
        seeds = range(first, first + self.demonstrations)
        return [Task(e, seed) for seed in seeds for e in self.tasks.env_ids]

    def iteration_tasks(self, iteration: int) -> list[Task]:
        """The tasks of an online iteration (from 1 on); seeds are never used twice."""
        count = self.episodes_per_task // self.group_size
        first = self.tasks.train_seed + self.demonstrations + (iteration - 1) * count
        return [
            Task(e, seed)
            for seed in range(first, first + count)
            for e in self.tasks.env_ids
            for _ in range(self.group_size)
        ]


def before_online(recipe: Recipe) -> Recipe:
    """The recipe without what matters only from the first online iteration on.

    Recipes that are equal after this reach that iteration with the same weights and episodes.
    """
    return replace(
        recipe,
        description="",
        trainer="behaviour_cloning",
        iterations=0,
        episodes_per_task=1,
        group_size=1,
        train={},
        arms={},
        evaluation=replace(recipe.evaluation, every=0),
    )


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    files = resources.files(_RECIPES).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, with ``key=value`` overrides.

    Raises:
        UnknownNameError: neither a file nor a known name.
        ConfigError: unknown keys, wrong types, or TOML that does not parse.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise ConfigError(f"recipe file {name_or_path!r} does not exist; check the path")
        return config.load(Recipe, path, overrides)
    known = recipe_names()
    if name_or_path not in known:
        raise UnknownNameError("recipe", name_or_path, known)
    text = resources.files(_RECIPES).joinpath(f"{name_or_path}.toml").read_text("utf-8")
    return config.load(Recipe, tomllib.loads(text), overrides)
