"""A run: the phases of a recipe, one after the other, cut and gone on with at any moment.

    evaluate -> demonstrate -> warm start -> (collect -> update) x iterations -> evaluate

Whatever a phase needs lies in the run's folder or in the last checkpoint. A phase that was cut is
begun again from its start (an update from its last checkpoint) with the same seeds, and what it had
written by then is taken back, so that a resumed run equals one that was never stopped.

Several processes (`ranks`) do a run together: what they come to is that of one, up to rounding.
"""

import contextlib
import inspect
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import agentgym
from agentgym import checkpoint, config, diagnostics, durable, metrics
from agentgym.core import InferenceBackend, Policy, Trainer
from agentgym.errors import ConfigError, StoreError, TrainingError
from agentgym.evaluation import Evaluation, summarise
from agentgym.machine import processor
from agentgym.metrics import MetricsWriter
from agentgym.policy import LanguagePolicy, oracle_policy, system_message
from agentgym.progress import Progress
from agentgym.ranks import Ranks
from agentgym.recipe import Recipe
from agentgym.registry import BACKENDS, TRAINERS
from agentgym.rollout import check_ids, collect, make_env
from agentgym.seeding import derive
from agentgym.store import TrajectoryStore
from agentgym.types import Task, Trajectory

if TYPE_CHECKING:
    from agentgym.models.load import LoadedModel

logger = logging.getLogger(__name__)

RECIPE, SUMMARY, CHECKPOINTS, TRAJECTORIES, MODEL, NEW_MODEL = (
    "recipe.toml",
    "summary.json",
    "checkpoint",
    "trajectories",
    "model",
    "new-model",
)
KEPT_EVERY_S = 1.0
"""Seconds of a rollout between two writes of its episodes."""
READ_EPISODES = 256
"""Demonstrations at most, of each environment id, that a new model's tokens are learned from."""


DATASET = "dataset"
"""Source of the training phases of a run that learns offline."""


@dataclass(frozen=True)
class Phase:
    """One stretch of a run."""

    name: str
    kind: str
    """evaluate, demonstrate, collect, or train."""
    source: str = ""
    """Phase whose trajectories a training phase learns from."""
    iteration: int = 0


def phases_of(recipe: Recipe) -> list[Phase]:
    """The phases of a recipe, in order."""
    phases = []
    if recipe.demonstrations:
        phases.append(Phase("demonstrations", "demonstrate"))
        phases.append(Phase("warm-start", "train", "demonstrations"))
    before = recipe.evaluation.before
    if before == "auto":
        before = "warmed" if recipe.model.name == "new" else "given"
    phases.insert(len(phases) if before == "warmed" else 0, Phase("eval-before", "evaluate"))
    for i in range(1, recipe.iterations + 1):
        if not recipe.dataset:
            phases.append(Phase(f"iteration-{i}", "collect", iteration=i))
        source = DATASET if recipe.dataset else f"iteration-{i}"
        phases.append(Phase(f"update-{i}", "train", source, i))
        every = recipe.evaluation.every
        if every and i % every == 0 and i < recipe.iterations:
            phases.append(Phase(f"eval-{i}", "evaluate", iteration=i))
    phases.append(Phase("eval-after", "evaluate", iteration=recipe.iterations))
    return phases


class Run:
    """A run in its folder. Use `start` or `resume`, then `execute`."""

    def __init__(
        self, recipe: Recipe, folder: Path, progress: Progress, ranks: Ranks | None = None
    ) -> None:
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.ranks = ranks or Ranks()
        self._store: TrajectoryStore | None = None  # the first process's, while it executes
        self._metrics: MetricsWriter | None = None
        self.phases = phases_of(recipe)
        self.phase = 0
        self.version = 0
        self.elapsed: dict[str, float] = {}
        self.evaluations: dict[str, Any] = {}
        self._step = 0
        """Number of the last checkpoint."""
        self._kept = {"trajectories": 0, "metrics": 0}
        """What the store and the metrics held at the last checkpoint."""
        self._inside = False
        """True if the last checkpoint was taken inside an update."""
        self._trainer: Trainer | None = None
        self._warming = False
        self._history: list[dict[str, Any]] = []
        """The metrics of phases so far; steps are left out."""
        self._loaded: LoadedModel | None = None
        self._sampler: tuple[Any, InferenceBackend] | None = None

    @classmethod
    def start(cls, recipe: Recipe, folder: Path, progress: Progress) -> "Run":
        """Begin a run in a folder that holds none.

        Raises:
            ConfigError: the folder holds a run already, or the trainer refuses its settings.
            UnknownNameError: the trainer or an environment is not registered.
        """
        ranks = Ranks()
        _refuse_a_run(folder)
        warm, online = (
            getattr(_settings(recipe, warming)[1], "lora_rank", 0) for warming in (True, False)
        )
        if recipe.demonstrations and online and not warm:
            raise ConfigError(
                f"train.lora_rank is {online} after a warm start of all weights, which checkpoints "
                "of adapters would lose; set warm_start.lora_rank too, or make the start a run of "
                "its own and give its model folder as model.name"
            )
        check_ids(recipe.tasks.env_ids)
        if recipe.dataset:
            open_dataset(recipe).close()
        ranks.wait()  # until all have seen that there is no run yet
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            durable.write_bytes(folder / RECIPE, config.dump(recipe).encode())
        ranks.wait()
        return cls(recipe, folder, progress, ranks)

    @classmethod
    def resume(cls, folder: Path, progress: Progress) -> "Run":
        """Go on with the run in a folder, from its last checkpoint.

        Raises:
            ConfigError: the folder holds no run.
        """
        if not (folder / RECIPE).exists():
            raise ConfigError(f"{folder} holds no run ({RECIPE} is missing); start one first")
        run = cls(config.load(Recipe, folder / RECIPE), folder, progress)
        saved = checkpoint.load(folder / CHECKPOINTS)
        if saved is not None:
            run._restore(saved)
        return run

    @classmethod
    def branch(cls, source: Path, recipe: Recipe, folder: Path, progress: Progress) -> "Run":
        """Begin a run where another one stands: it goes on as if it had done all that itself.

        That holds if the recipes differ in nothing that mattered so far; `before_online` says
        so of the warm start.

        Raises:
            ConfigError: as `start`, or the source holds no run.
        """
        if not (source / RECIPE).exists():
            raise ConfigError(f"{source} holds no run ({RECIPE} is missing)")
        _refuse_a_run(folder)
        scratch = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(scratch, ignore_errors=True)  # of a copy that was cut
        cls.start(recipe, scratch, progress)
        keep = (scratch / RECIPE).read_bytes()
        shutil.copytree(source, scratch, dirs_exist_ok=True)
        durable.write_bytes(scratch / RECIPE, keep)
        scratch.rename(folder)
        return cls.resume(folder, progress)

    @property
    def finished(self) -> bool:
        """True if nothing is left to do."""
        return self.phase >= len(self.phases)

    def execute(self, until: str = "") -> dict[str, Any]:
        """Do what is left.

        Args:
            until: name of a phase after which to stop; the run can be gone on with later.

        Returns:
            The summary, as written to ``summary.json``.
        """
        if until and all(phase.name != until for phase in self.phases):
            known = ", ".join(phase.name for phase in self.phases)
            raise ConfigError(f"there is no phase {until!r}; this run has {known:.300}")
        if self.finished or self._passed(until):
            return self._summary()
        with contextlib.ExitStack() as stack:
            if self.ranks.first:
                self._open_books(stack)
            self._history = self.ranks.told(self._history)
            try:
                while not self.finished and not self._passed(until):
                    self._do(self.phases[self.phase])
                    self.phase += 1
                    if self.finished:
                        self.trainer.save_model(self.folder / MODEL)
                    self._checkpoint()
            finally:
                self._close_backend()
        return self._summary()

    def _open_books(self, stack: contextlib.ExitStack) -> None:
        """What was written after the last checkpoint is taken back."""
        self._store = stack.enter_context(TrajectoryStore(self.folder / TRAJECTORIES))
        self._metrics = stack.enter_context(
            MetricsWriter(
                self.folder,
                self.recipe.sinks,
                resume_rows=self._kept["metrics"],
                name=self.recipe.name,
            )
        )
        self._store.truncate(self._kept["trajectories"])
        self._history = [r for r in metrics.read(self.folder) if "seconds" in r]

    def _passed(self, phase: str) -> bool:
        return any(done.name == phase for done in self.phases[: self.phase])

    # -- phases -------------------------------------------------------------------------------

    def _do(self, phase: Phase) -> None:
        started = time.monotonic()
        row: dict[str, Any]
        row = self._train(phase) if phase.kind == "train" else dict(self._gather(phase))
        took = time.monotonic() - started
        self.elapsed[phase.name] = self.elapsed.get(phase.name, 0.0) + took
        row = self.ranks.told({"phase": phase.name, "iteration": phase.iteration, **row})
        row |= self._sound_alarms(row)
        self._history.append(row)
        self._log(phase, {**row, "seconds": took})
        self._stop_if_idle()

    def _sound_alarms(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Log the rules that a phase's row breaks; how often each was broken by now."""
        rows = [*self._history, row]
        found = diagnostics.alarms(rows, self.recipe.alarms)
        for alarm in found:
            logger.warning("%s: alarm %s: %s", alarm.phase, alarm.rule, alarm.message)
        return diagnostics.alarm_counters(rows, found)

    def _stop_if_idle(self) -> None:
        """Stop where nothing can be learned.

        Raises:
            TrainingError: so many updates in a row found nothing to learn from.
        """
        limit, idle = self.recipe.alarms.stop_after, diagnostics.nothing_learned(self._history)
        if limit and idle >= limit:
            raise TrainingError(
                f"{idle} updates in a row found nothing to learn from (no episodes with an "
                "outcome, all groups with equal scores, or nothing that passes the filter); make "
                "the tasks easier or harder, raise group_size or demonstrations, or set "
                "alarms.stop_after in the run's recipe.toml higher and go on with --resume"
            )

    def _gather(self, phase: Phase) -> dict[str, float]:
        recipe = self.recipe
        tasks: list[Task]
        policy: Policy
        if phase.kind == "evaluate":
            tasks = recipe.eval_tasks()
            policy = self._policy(recipe.evaluation.temperature)
        elif phase.kind == "demonstrate":
            tasks = recipe.demonstration_tasks()
            policy = oracle_policy(
                noise=recipe.demonstration_noise,
                tokenizer=self.tokenizer,
                context=recipe.context,
                reserve=recipe.sampling.max_tokens,
                vision=self._load().vision,
            )
        else:
            tasks = recipe.iteration_tasks(phase.iteration)
            policy = self._policy(recipe.sampling.temperature)
        trajectories = self._collect(tasks, policy, phase)
        evaluation = summarise(trajectories)
        if phase.kind == "collect" and getattr(self.trainer, "greedy_baseline", False):
            once = list({task.id: task for task in tasks}.values())
            self._collect(once, self._policy(0.0), phase, "greedy")
        if phase.kind == "evaluate":
            self.evaluations[phase.name.removeprefix("eval-")] = evaluation.to_json()
        return _numbers(evaluation, trajectories)

    def _collect(
        self, tasks: Sequence[Task], policy: Policy, phase: Phase, *marks: str
    ) -> list[Trajectory]:
        """Run a phase's episodes and store them; `marks` tell further ones of a phase apart."""
        names = (phase.name, *marks)
        name = "-".join(names)
        share = self.ranks.share(len(tasks))
        with self.progress.phase(name, total=len(share), unit="episodes") as bar:
            tally, keeper = _Tally(bar.advance), _Keeper(self._store)

            def keep(trajectory: Trajectory) -> None:
                keeper.add(trajectory)
                tally.add(trajectory)

            collected = collect(
                tasks,
                policy,
                self.recipe.rollout,
                make=partial(make_env, **self.recipe.env),
                seed=derive(self.recipe.seed, *names),
                name=name,
                metadata={"phase": phase.name, **dict.fromkeys(marks, True)},
                on_trajectory=keep,
                share=share,
            )
            keeper.flush()
        everyones = self.ranks.joined(collected)
        if self._store is not None:
            self._store.append(everyones[len(collected) :])  # the first process's come first
        return everyones

    def _train(self, phase: Phase) -> dict[str, Any]:
        trainer = self._trainer_for(phase)
        if not self._inside:
            trainer.start(self._lessons(phase))
        self._inside = False
        saved = time.monotonic()
        with self.progress.phase(
            phase.name, total=trainer.planned_steps, unit="steps", done=trainer.position
        ) as bar:
            while not trainer.done:
                step = trainer.step()
                bar.advance(1, loss=step["loss"])
                self._log(phase, step)
                if time.monotonic() - saved >= self.recipe.checkpoint_every_s and not trainer.done:
                    self._checkpoint()
                    saved = time.monotonic()
        self.version += 1
        row: dict[str, Any] = {f"update_{n}": value for n, value in trainer.metrics().items()}
        if hasattr(trainer, "tables"):
            row["tables"] = trainer.tables()
        return row

    def _lessons(self, phase: Phase) -> list[Trajectory]:
        """What a training phase is given; an online method sees the demonstrations once."""
        if self._store is None:
            return self.ranks.told([])
        offline = phase.source == DATASET
        again = ("demonstrations",) if phase.iteration == 1 or offline else ()
        sources = {phase.source, *again}
        found = [(self._store, t) for t in self._store if t.metadata.get("phase") in sources]
        if offline:
            with open_dataset(self.recipe) as given:
                found += [(given, t) for t in given if t.task.split == "train"]
        if self._load().vision is not None:
            lessons = [store.with_pictures(t) for store, t in found]
        else:
            lessons = [t for _, t in found]
        lessons.sort(key=lambda t: t.id)  # the store's order is that of their ends
        return self.ranks.told(lessons)

    # -- parts --------------------------------------------------------------------------------

    @property
    def trainer(self) -> Trainer:
        """The trainer of the current phase."""
        return self._trainer_for(self.phases[min(self.phase, len(self.phases) - 1)])

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._load().tokenizer

    def _trainer_for(self, phase: Phase) -> Trainer:
        """The warm start's trainer until the first iteration begins, then the online method's."""
        warming = bool(self.recipe.demonstrations) and phase.iteration == 0
        if self._trainer is None or self._warming != warming:
            self._trainer = self._make_trainer(warming)
        return self._trainer

    def _make_trainer(self, warming: bool) -> Trainer:
        factory, settings = _settings(self.recipe, warming)
        model = self._load().model if self._trainer is None else self._trainer.model
        self._warming = warming
        made: Trainer = factory(model, self.tokenizer, settings)
        vision = self._load().vision
        if vision is not None and hasattr(made, "see_with"):
            made.see_with(vision)
        if hasattr(made, "act_with"):  # a method that samples while it trains
            made.act_with(self._backend, self.recipe.sampling)
        return made

    def _load(self) -> "LoadedModel":
        if self._loaded is None:
            name = self.recipe.model.name
            if name == "new":
                if self.ranks.first:
                    self._make_model()
                self.ranks.wait()
            with self.progress.phase(f"loading {name}", total=1, unit="models") as bar:
                self._loaded = self._load_base()
                bar.advance(1)
        return self._loaded

    def _load_base(self) -> "LoadedModel":
        from agentgym.models.load import load_model

        model = self.recipe.model
        source = self.folder / NEW_MODEL if model.name == "new" else model.name
        return load_model(source, dtype=model.dtype, device=self.ranks.device or model.device)

    def _make_model(self) -> None:
        """A model from scratch, in the run's folder; the same one whenever it is made again."""
        if (self.folder / NEW_MODEL).is_dir():
            return
        from agentgym.models.fresh import fresh_model
        from agentgym.models.load import save_model

        recipe = self.recipe
        tasks = recipe.demonstration_tasks()[: READ_EPISODES * len(recipe.tasks.env_ids)]
        with self.progress.phase("reading", total=len(tasks), unit="episodes") as bar:
            read = collect(
                tasks,
                oracle_policy(noise=recipe.demonstration_noise),
                recipe.rollout,
                make=partial(make_env, **recipe.env),
                seed=derive(recipe.seed, "demonstrations"),
                name="reading",
                on_trajectory=lambda _: bar.advance(1),
            )
        texts = {text for t in read for turn in t.turns for text in (turn.observation, turn.text)}
        texts |= {t.task.goal for t in read} | {t.final_observation for t in read}
        texts |= {turn.observation_error for t in read for turn in t.turns}
        for env_id in recipe.tasks.env_ids:
            env = make_env(env_id, **recipe.env)
            texts.add(system_message(env, recipe.context))
            env.close()
        seed = derive(recipe.seed, "model") % 2**63
        model, tokenizer = fresh_model(texts, seed=seed, **asdict(recipe.model.new))
        save_model(model, tokenizer, self.folder / NEW_MODEL)

    def _policy(self, temperature: float) -> Policy:
        return LanguagePolicy(
            self._backend(),
            self.tokenizer,
            sampling=replace(self.recipe.sampling, temperature=temperature),
            context=self.recipe.context,
            name=f"{self.recipe.name}@{self.version}",
            vision=self._load().vision,
        )

    def _backend(self) -> InferenceBackend:
        """A backend with the current weights.

        It samples from the very module that is trained. With "hf" adapters are the exception: they
        would slow every token down, so they are merged into a copy (merging in place and taking it
        back would change the weights by rounding).
        """
        trainer, name = self.trainer, self.recipe.backend
        adapted = name == "hf" and hasattr(trainer.model, "peft_config")
        if self._sampler is None or self._sampler[0] is not trainer.model:
            self._close_backend()
            module = trainer.model
            if adapted:
                module = self._load_base().model
            vision = self._load().vision
            options = {} if vision is None else {"vision": vision}
            options |= self.recipe.backend_options
            factory = BACKENDS.get(name)
            try:
                inspect.signature(factory).bind(module, self.tokenizer, **options)
            except TypeError as error:
                raise ConfigError(f"backend_options: {name!r} {error}") from error
            self._sampler = (trainer.model, factory(module, self.tokenizer, **options))
        backend = self._sampler[1]
        backend.load_weights(trainer.weights() if adapted else {}, self.version)
        return backend

    def _close_backend(self) -> None:
        if self._sampler is not None:
            self._sampler[1].close()
            self._sampler = None

    # -- state --------------------------------------------------------------------------------

    def _log(self, phase: Phase, row: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write({"phase": phase.name, "iteration": phase.iteration, **row})

    def _checkpoint(self) -> None:
        """Everything that going on needs; what this writes is the only truth after a kill."""
        if self._store is None or self._metrics is None:
            return
        self._step += 1
        trainer = self._trainer
        state = {
            "phase": self.phase,
            "inside": trainer is not None and not trainer.done,
            "version": self.version,
            "trajectories": len(self._store),
            "metrics": self._metrics.rows,
            "elapsed": self.elapsed,
            "evaluations": self.evaluations,
            "trainer": None if trainer is None or self.finished else trainer.state_dict(),
            "warming": self._warming,
            "rng": checkpoint.rng_state(),
        }
        checkpoint.save(self.folder / CHECKPOINTS, self._step, state)
        durable.write_json(self.folder / SUMMARY, self._summary())

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.state
        self._step, self.phase, self.version = saved.step, state["phase"], state["version"]
        self.elapsed, self.evaluations = dict(state["elapsed"]), dict(state["evaluations"])
        self._kept = {"trajectories": state["trajectories"], "metrics": state["metrics"]}
        self._inside = state["inside"]
        if state["trainer"] is not None:
            if not state["warming"] and self.recipe.demonstrations:
                # Adapters, if any, were put in by the warm start; the state then fills them.
                self._trainer = self._make_trainer(True)
            self._trainer = self._make_trainer(state["warming"])
            self._trainer.load_state_dict(state["trainer"])
        checkpoint.set_rng_state(state["rng"])

    def _summary(self) -> dict[str, Any]:
        return {
            "name": self.recipe.name,
            "finished": self.finished,
            "phase": None if self.finished else self.phases[self.phase].name,
            "evaluations": self.evaluations,
            "seconds": self.elapsed,
            "machine": f"{os.cpu_count()} x {processor()}, Python {platform.python_version()}",
            "version": agentgym.__version__,
        }


def open_dataset(recipe: Recipe) -> TrajectoryStore:
    """The store that a recipe's `dataset` means, for reading.

    Raises:
        ConfigError: there is none.
    """
    folder = Path(recipe.dataset)
    inside = folder / TRAJECTORIES
    try:
        return TrajectoryStore(inside if inside.is_dir() else folder, read_only=True)
    except StoreError as error:
        raise ConfigError(
            f"dataset {recipe.dataset!r} is neither a run's folder nor a trajectory store "
            f"({error}); make one with agentgym data make, or name the folder of a run"
        ) from error


def _refuse_a_run(folder: Path) -> None:
    if (folder / RECIPE).exists():
        raise ConfigError(
            f"{folder} holds a run already; go on with --resume, start over with --fresh, or "
            "choose another folder with --out"
        )


def _settings(recipe: Recipe, warming: bool) -> tuple[Any, Any]:
    """A trainer's class and its config."""
    name = "behaviour_cloning" if warming else recipe.trainer
    values = recipe.warm_start if warming else recipe.train
    factory = TRAINERS.get(name)
    seed = derive(recipe.seed, "trainer", name) % 2**31
    return factory, config.load(factory.config_class, {"seed": seed, **values})


@dataclass
class _Tally:
    """Running success for the progress line."""

    advance: Callable[..., None]
    scored: int = 0
    successes: int = 0

    def add(self, trajectory: Trajectory) -> None:
        self.scored += trajectory.outcome is not None
        self.successes += trajectory.success
        self.advance(1, success=self.successes / max(1, self.scored))


class _Keeper:
    """Writes episodes to the store, at most once in `KEPT_EVERY_S`: each time costs a file.

    What is lost in a kill would be played again anyway: a phase is begun again from its start.
    """

    def __init__(self, store: TrajectoryStore | None) -> None:
        self._store = store
        self._waiting: list[Trajectory] = []
        self._kept = time.monotonic()

    def add(self, trajectory: Trajectory) -> None:
        self._waiting.append(trajectory)
        if time.monotonic() - self._kept >= KEPT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if self._waiting and self._store is not None:
            self._store.append(self._waiting)
        self._waiting, self._kept = [], time.monotonic()


def _numbers(evaluation: Evaluation, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """What metrics.jsonl keeps of a phase that ran episodes."""
    scored = [t for t in trajectories if t.outcome is not None]
    turns = [turn for t in trajectories for turn in t.turns]
    sampled = sum(len(turn.action_ids) for turn in turns if turn.action_ids is not None)
    entropies = [
        float(turn.entropy.mean())
        for turn in turns
        if turn.entropy is not None and len(turn.entropy)
    ]
    return {
        "success": evaluation.mean,
        "success_low": evaluation.low,
        "success_high": evaluation.high,
        **({"reward": sum(t.reward for t in scored) / len(scored)} if scored else {}),
        "episodes": float(len(trajectories)),
        "unscored": float(sum(t.outcome is None for t in trajectories)),
        "broken_attempts": float(sum(t.attempt for t in trajectories)),
        "turns": float(len(turns)),
        "unparsed_share": sum(not t.parsed for t in turns) / max(1, len(turns)),
        "failed_share": sum(t.parsed and bool(t.action_error) for t in turns) / max(1, len(turns)),
        "action_tokens": float(sampled),
        **diagnostics.repetition(trajectories),
        **({"entropy": sum(entropies) / len(entropies)} if entropies else {}),
    }


def load_run_model(folder: Path) -> Path:
    """The folder of a run's model, for `agentgym eval`.

    Raises:
        TrainingError: the run has not finished.
    """
    model = folder / MODEL
    if not model.is_dir():
        raise TrainingError(f"{folder} has no finished model; go on with `agentgym train --resume`")
    return model
