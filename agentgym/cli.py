"""The command line: `agentgym envs | play | replay | rollout | train | eval | report | ...`."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import typer
from rich.table import Table

import agentgym
from agentgym import paths
from agentgym.errors import AgentGymError, ConfigError
from agentgym.tables import (
    err,
    out,
    plain,
    show_benchmark,
    show_comparison,
    show_dataset,
    show_evaluation,
    show_replay,
    show_validation,
    whole,
    wide,
)

app = typer.Typer(
    name="agentgym",
    help="A training gym for language-model agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="Offline datasets.", no_args_is_help=True)
app.add_typer(data, name="data")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="Embedded default, hub name, folder, or a run's folder."),
]
SeedOption = Annotated[int, typer.Option(help="First seed of the episodes.")]
BackendOption = Annotated[str, typer.Option(help="What computes a local model: engine or hf.")]
ServerOption = Annotated[
    str | None,
    typer.Option(help="Ask the model of that name at an OpenAI-compatible server, http://.../v1."),
]
KeyOption = Annotated[str | None, typer.Option(help="Environment variable with the server's key.")]
EnvOption = Annotated[
    list[str] | None,
    typer.Option("--env", help="Keyword of the environments, key=value (TOML value); repeatable."),
]


def main() -> None:
    """Run the command line; a known error is one line, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except AgentGymError as error:
        err.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _version(show: bool) -> None:
    if show:
        out.print(agentgym.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A training gym for language-model agents."""


@app.command()
def envs(
    pattern: Annotated[str, typer.Argument(help="Only ids that contain this.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """List the environments."""
    rows = [
        {
            "id": spec.id,
            "max_episode_steps": spec.max_episode_steps,
            "entry_point": str(spec.entry_point),
        }
        for spec in sorted(gym.registry.values(), key=lambda s: s.id)
        if spec.namespace == "agentgym" and pattern in spec.id
    ]
    if as_json:
        out.print_json(json.dumps(rows))
        return
    table = Table(whole("id"), "turn limit", "made by", title=f"{len(rows)} environments")
    for row in rows:
        table.add_row(str(row["id"]), str(row["max_episode_steps"] or "-"), str(row["entry_point"]))
    wide().print(table)


@app.command()
def play(
    env_id: Annotated[str, typer.Argument(help="Environment id, with or without 'agentgym/'.")],
    seed: SeedOption = 0,
    screenshot: Annotated[
        Path | None, typer.Option(help="Save the picture here after every turn (PNG).")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the episode down here, for agentgym replay.")
    ] = None,
    env: EnvOption = None,
) -> None:
    """Play yourself: type actions, an empty line for the oracle's, 'quit' to stop."""
    from agentgym.images import encode_image
    from agentgym.recording import Recorder
    from agentgym.rollout import make_env

    kwargs = _keywords(env)
    if screenshot is not None:
        kwargs["images"] = True
    world = make_env(_full(env_id), **kwargs)
    try:
        if record is not None:
            world = Recorder(world, record)
        observation, _ = world.reset(seed=seed)
        actions = world.get_wrapper_attr("action_set")
        syntax = world.get_wrapper_attr("action_syntax")
        out.print(f"[bold]{plain(observation['goal'])}[/]\n\n{plain(actions.describe(syntax))}")
        total, over = 0.0, False
        while not over:
            if screenshot is not None:
                picture = encode_image(observation["image"]).data
                screenshot.write_bytes(picture or b"")
            out.print(f"\n{plain(observation['text'])}", highlight=False)
            if observation["error"]:
                out.print(f"[red]{plain(observation['error'])}[/]", highlight=False)
            try:
                text = out.input("[bold cyan]> [/]")
            except EOFError:
                break
            if text.strip() == "quit":
                break
            if not text.strip() and world.get_wrapper_attr("has_oracle"):
                text = world.get_wrapper_attr("oracle_action")()
                out.print(f"[dim]{plain(text)}[/]", highlight=False)
            observation, reward, terminated, truncated, info = world.step(text)
            total += float(reward)
            over = terminated or truncated
        verdict = "not finished"
        if over:
            verdicts = {True: "success", None: "for a judge to tell"}
            verdict = verdicts.get(info.get("success", False), "no success")
        out.print(f"\n{verdict}, return {total:g}")
    finally:
        world.close()


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A recording: of play or rollout with --record.")],
    as_json: JsonFlag = False,
) -> None:
    """Play a recording again, offline; exit code 1 where something is not as it was."""
    from agentgym.recording import replay as play_again
    from agentgym.rollout import make_env

    report = play_again(file, make_env)
    if as_json:
        out.print_json(json.dumps(report.to_json()))
    else:
        show_replay(report)
    if report.divergence is not None:
        raise typer.Exit(1)


@app.command()
def rollout(
    env_ids: Annotated[list[str], typer.Argument(help="Environment ids.")],
    policy: Annotated[str, typer.Option(help="oracle, random, or model.")] = "oracle",
    model: ModelOption = "smollm2-135m",
    episodes: Annotated[int, typer.Option(help="Episodes of each environment.")] = 4,
    seed: SeedOption = 0,
    num_envs: Annotated[int, typer.Option(help="Episodes at the same time.")] = 8,
    temperature: Annotated[float, typer.Option(help="Of a model's answers; 0 is greedy.")] = 0.0,
    backend: BackendOption = "engine",
    server: ServerOption = None,
    api_key_env: KeyOption = None,
    store: Annotated[Path | None, typer.Option(help="Keep the trajectories here.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder of recordings, one an environment.")
    ] = None,
    env: EnvOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Run episodes and say how they went."""
    from agentgym.policy import oracle_policy, random_policy

    if policy == "model":
        chosen: Any = _language_policy(model, temperature, backend, server, api_key_env)
    elif policy in ("oracle", "random"):
        chosen = oracle_policy() if policy == "oracle" else random_policy()
    else:
        raise ConfigError(f"--policy must be oracle, random or model, got {policy!r}")
    kwargs = _keywords(env)
    _episodes(chosen, env_ids, episodes, seed, num_envs, store, kwargs, as_json, policy, record)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Embedded default, hub name, folder, or run.")],
    env_ids: Annotated[list[str] | None, typer.Argument(help="Default: those of the run.")] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of each environment.")] = 20,
    seed: SeedOption = 0,
    num_envs: Annotated[int, typer.Option(help="Episodes at the same time.")] = 16,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    backend: BackendOption = "engine",
    server: ServerOption = None,
    api_key_env: KeyOption = None,
    store: Annotated[Path | None, typer.Option(help="Keep the trajectories here.")] = None,
    env: EnvOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a model's success, with intervals. A run's own settings are taken from its recipe."""
    recipe = _recipe_of(Path(model))
    if recipe is None and not env_ids:
        raise ConfigError(f"name the environments to evaluate {model!r} on")
    chosen = _language_policy(model, temperature, backend, server, api_key_env, recipe)
    kwargs = {**(recipe.env if recipe else {}), **_keywords(env)}
    ids = env_ids or list(recipe.tasks.env_ids if recipe else ())
    _episodes(chosen, ids, episodes, seed, num_envs, store, kwargs, as_json, "eval")


def _episodes(
    policy: Any,
    env_ids: list[str],
    episodes: int,
    seed: int,
    num_envs: int,
    store: Path | None,
    kwargs: dict[str, Any],
    as_json: bool,
    name: str,
    record: Path | None = None,
) -> None:
    from functools import partial

    from agentgym.evaluation import summarise
    from agentgym.progress import Progress
    from agentgym.recording import recorded
    from agentgym.rollout import RolloutConfig, check_ids, collect, make_env
    from agentgym.store import TrajectoryStore
    from agentgym.types import Task, Trajectory

    ids = [_full(e) for e in env_ids]
    check_ids(ids)
    tasks = [Task(e, s, split="test") for s in range(seed, seed + episodes) for e in ids]
    kept = TrajectoryStore(store) if store is not None else None
    make = partial(make_env, **kwargs)
    with Progress() as progress, progress.phase(name, len(tasks), unit="episodes") as bar:

        def done(trajectory: Trajectory) -> None:
            if kept is not None:
                kept.append([trajectory])
            bar.advance(1)

        trajectories = collect(
            tasks,
            policy,
            RolloutConfig(num_envs=num_envs),
            make=make if record is None else recorded(record, make),
            seed=seed,
            name=name,
            metadata={"phase": name},
            on_trajectory=done,
        )
    if kept is not None:
        kept.close()
    show_evaluation(summarise(trajectories).to_json(), as_json)
    if all(trajectory.outcome is None for trajectory in trajectories):
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="key=value (TOML value); repeatable.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run stopped; begin if there is none.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run that is there.")] = False,
    until: Annotated[
        str, typer.Option(help="Stop after this phase, such as warm-start or update-3.")
    ] = "",
    show: Annotated[
        bool, typer.Option("--show-keys", help="List every key of a recipe and stop.")
    ] = False,
) -> None:
    """Train by a recipe. Names: see `agentgym train --help` and the recipes folder."""
    from agentgym import config
    from agentgym.progress import Progress
    from agentgym.ranks import Ranks
    from agentgym.recipe import Recipe, load_recipe
    from agentgym.report import write_report
    from agentgym.run import RECIPE, Run

    if show:
        table = Table("key", "type", "default", "meaning")
        for key in config.describe(Recipe):
            table.add_row(*(plain(str(part)) for part in key))
        out.print(table)
        return
    plan = load_recipe(recipe, overrides or ())
    where = folder or paths.runs() / plan.name
    ranks = Ranks()
    if fresh and ranks.first:
        _delete_run(where)
    ranks.wait()
    if not ranks.first:
        logging.getLogger("agentgym").setLevel(logging.ERROR)  # the first one says the same
    with Progress(quiet=not ranks.first) as progress:
        if resume and (where / RECIPE).exists():
            run = Run.resume(where, progress)
            _same_recipe(run.recipe, plan, where)
        else:
            run = Run.start(plan, where, progress)
        try:
            summary = run.execute(until)
        except KeyboardInterrupt:
            err.print(f"stopped; go on with: agentgym train {recipe} --out {where} --resume")
            raise
        page = write_report(where) if ranks.first else None
    ranks.leave()
    if page is None:
        return
    for name in ("before", "after"):
        if name in summary["evaluations"]:
            show_evaluation(summary["evaluations"][name], False, f"success {name} training")
    out.print(f"report: {page}", highlight=False, soft_wrap=True)


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            "-a",
            help="A trainer, or 'name: key=value; ...'; repeatable. Default: the recipe's arms.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each arm.")] = 5,
    first_seed: Annotated[int, typer.Option(help="Seed of an arm's first run.")] = 0,
    tuning_seeds: Annotated[int, typer.Option(help="Runs of each choice that is tuned.")] = 2,
    tuning_iterations: Annotated[
        int, typer.Option(help="Iterations of these runs; 0: as many as in the comparison.")
    ] = 0,
    tuned_by: Annotated[
        Literal["success", "return"], typer.Option(help="What of these runs decides.")
    ] = "success",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="key=value for every arm; repeatable.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Where the runs go.")] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", help="Runs at the same time; they share the cores.")
    ] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Run methods over seeds and compare them at equal environment turns; goes on where it was."""
    from agentgym import compare as comparing
    from agentgym.progress import Progress

    comparing.check_one_process()
    where = folder or paths.runs() / f"compare-{Path(recipe).stem}"
    with Progress() as progress:
        result = comparing.compare(
            recipe,
            [comparing.read_arm(arm) for arm in arms] if arms else comparing.arms_of(recipe),
            where,
            seeds=range(first_seed, first_seed + seeds),
            overrides=overrides or (),
            tuning_seeds=tuning_seeds,
            tuning_iterations=tuning_iterations,
            tuned_by=tuned_by,
            jobs=jobs,
            progress=progress,
            on_run=lambda name: err.print(plain(name), style="bold"),
        )
    if as_json:
        out.print_json(json.dumps(result.to_json()))
        return
    show_comparison(result)
    out.print(f"comparison: {where / comparing.PAGE}", highlight=False, soft_wrap=True)


def _same_recipe(saved: Any, given: Any, where: Path) -> None:
    if saved != given:
        raise ConfigError(
            f"{where} was begun with another recipe (see {where / 'recipe.toml'}); resume with the "
            "same recipe and --set, or start over with --fresh"
        )


def _delete_run(where: Path) -> None:
    """Delete a run's folder, and nothing that is not one."""
    import shutil

    if not where.exists():
        return
    if not (where / "recipe.toml").exists():
        raise ConfigError(f"{where} holds no run; not deleting it")
    shutil.rmtree(where)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    episode: Annotated[
        str | None, typer.Option(help="One episode in full, by its id, to episode.html.")
    ] = None,
) -> None:
    """Write the run's report page again (works while it runs)."""
    from agentgym.report import episode_html, write_report

    if not (run / "recipe.toml").exists():
        raise ConfigError(f"{run} holds no run (recipe.toml is missing)")
    if episode is None:
        page = write_report(run)
    else:
        page = run / "episode.html"
        page.write_text(episode_html(run, episode), "utf-8")
    out.print(str(page), highlight=False, soft_wrap=True)


@data.command("make")
def make_data(
    env_id: Annotated[str, typer.Argument(help="Environment id, with or without 'agentgym/'.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Made, continued or enlarged.")],
    episodes: Annotated[int, typer.Option(help="Episodes in all.")] = 1000,
    mix: Annotated[
        str, typer.Option(help="Shares of expert, mixed, mixed:P (P: random actions), random.")
    ] = "expert=0.3,mixed=0.4,random=0.3",
    seed: SeedOption = 0,
    split: Annotated[str, typer.Option(help="Recorded in every episode.")] = "train",
    model: Annotated[
        str, typer.Option("--model", "-m", help="Record token ids for this model, too.")
    ] = "",
    env: EnvOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Play and keep episodes of any quality. Equal arguments make equal rows, on any machine."""
    import time

    from agentgym.datasets import DatasetPlan, make_dataset
    from agentgym.progress import Progress

    plan = DatasetPlan(_full(env_id), episodes, mix, seed, _keywords(env), split, model)
    tokenizer = _tokenizer(model) if model else None
    began = time.perf_counter()
    with Progress() as progress:
        reports = make_dataset(plan, folder, tokenizer=tokenizer, progress=progress)
    show_dataset(reports, as_json, f"{folder}, {time.perf_counter() - began:.1f} s")


@data.command("show")
def show_data(
    folder: Annotated[Path, typer.Argument(help="A dataset's folder.")], as_json: JsonFlag = False
) -> None:
    """Say how the episodes of a dataset went, by quality."""
    from agentgym.datasets import summarise

    show_dataset(summarise(folder), as_json, str(folder))


@app.command("validate")
def validate_environments(
    pattern: Annotated[str, typer.Argument(help="Folder (text, web) or part of ids.")] = "",
    episodes: Annotated[int, typer.Option(help="Of each agent in each environment.")] = 20,
    seconds: Annotated[
        float, typer.Option(help="After which an agent begins no more episodes of one.")
    ] = 2.0,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Check that experts win, and that chance and nonsense do not; exit code 1 if not so."""
    from agentgym.progress import Progress
    from agentgym.validation import matching, validate

    ids = matching(pattern.removeprefix("agentgym/"))
    with Progress() as progress:
        found, skipped = validate(
            ids, episodes=episodes, seconds=seconds, seed=seed, progress=progress
        )
    if as_json:
        rows = [one.to_json() for one in found]
        out.print_json(json.dumps({"environments": rows, "skipped": skipped}))
    else:
        show_validation(found, skipped)
    if not all(one.sound for one in found):
        raise typer.Exit(1)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; default: all.")] = None,
    as_json: JsonFlag = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Little work: a smoke run, not a measurement.")
    ] = False,
    env_ids: Annotated[
        list[str] | None, typer.Option("--env-id", help="Environment to measure; repeatable.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model of the benchmarks that need one.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="Of the model: auto, float32, bfloat16, ...")] = "auto",
    parts: Annotated[
        list[str] | None,
        typer.Option("--part", help="Only cases with this in their names; repeatable."),
    ] = None,
    trl: Annotated[
        str, typer.Option(help="Python of an environment with TRL, for `bench train`.")
    ] = "",
    browsergym: Annotated[str, typer.Option(help="Python with BrowserGym, for `bench web`.")] = "",
    farama: Annotated[str, typer.Option(help="Python with Farama's MiniWoB++, likewise.")] = "",
    vllm: Annotated[
        str, typer.Option(help="Python that has vLLM: inference is measured with it too.")
    ] = "",
) -> None:
    """Measure speed against a baseline in the same run."""
    from agentgym.bench import BenchmarkOptions, run_benchmark
    from agentgym.progress import Progress
    from agentgym.registry import BENCHMARKS

    chosen = names or list(BENCHMARKS)
    for name in chosen:
        BENCHMARKS.get(name)  # a wrong name is told before anything is measured
    options = BenchmarkOptions(
        quick=quick,
        env_ids=tuple(_full(e) for e in env_ids or ()),
        model=model,
        dtype=dtype,
        parts=tuple(parts or ()),
        trl=trl,
        browsergym=browsergym,
        farama=farama,
        vllm=vllm,
    )
    results = []
    for name in chosen:
        with Progress() as progress:
            result = run_benchmark(name, options, progress=progress)
        results.append(result)
        if not as_json:
            show_benchmark(result)
    if as_json:
        out.print_json(json.dumps([r.to_json() for r in results]))


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="Embedded default, hub name, folder, or run.")],
    host: Annotated[str, typer.Option(help="Address; others than this machine's need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    api_key: Annotated[str, typer.Option(help="Key that clients must send.")] = "",
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key: not seen by `ps`.")
    ] = None,
    backend: Annotated[str, typer.Option(help="engine or hf.")] = "engine",
    name: Annotated[str | None, typer.Option(help="The model's name in requests.")] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Serve embeddings too, e.g. all-minilm-l6-v2.")
    ] = None,
    max_body: Annotated[int, typer.Option(help="Largest request, in bytes.")] = 4 << 20,
    max_queue: Annotated[int, typer.Option(help="Most answers waiting or in the making.")] = 256,
    memory: Annotated[
        float, typer.Option(min=0, help="GiB for the engine's keys and values; 0: its own choice.")
    ] = 0.0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Serve a model by OpenAI's protocol until it is stopped (Ctrl-C)."""
    from agentgym.inference.serve import serve as run_server
    from agentgym.run import load_run_model

    recipe = _recipe_of(Path(model))
    run_server(
        model if recipe is None else str(load_run_model(Path(model))),
        backend=backend,
        host=host,
        port=port,
        api_key=api_key,
        api_key_env=api_key_env,
        name=name or model,
        dtype=dtype,
        device=device,
        embedder=embedder,
        max_body=max_body,
        max_queue=max_queue,
        memory=memory,
    )


def _keywords(pairs: list[str] | None) -> dict[str, Any]:
    """``key=value`` pairs; a value that is no TOML is text."""
    import tomllib

    keywords: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--env must be key=value, got {pair!r}")
        try:
            keywords[key] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            keywords[key] = value
    return keywords


def _full(env_id: str) -> str:
    return env_id if "/" in env_id or ":" in env_id else f"agentgym/{env_id}"


def _recipe_of(folder: Path) -> Any:
    from agentgym.recipe import load_recipe

    recipe = folder / "recipe.toml"
    return load_recipe(str(recipe)) if recipe.exists() else None


def _reads_pictures(model: Path) -> bool:
    """True if a saved model has a processor, as only those of vision-language models have."""
    return any(model.glob("*processor_config.json"))


def _tokenizer(model: str) -> Any:
    from agentgym.models.load import load_model

    with err.status(f"loading the tokenizer of {model}"):
        return load_model(model).tokenizer


def _language_policy(
    model: str,
    temperature: float,
    backend: str,
    server: str | None,
    api_key_env: str | None,
    recipe: Any = None,
) -> Any:
    import dataclasses

    from agentgym.chat import ContextConfig
    from agentgym.core import SamplingParams
    from agentgym.policy import LanguagePolicy
    from agentgym.registry import BACKENDS
    from agentgym.run import MODEL, load_run_model

    if server is None and backend not in ("engine", "hf"):
        raise ConfigError(f"--backend must be engine or hf, got {backend!r}")
    recipe = recipe or (None if server else _recipe_of(Path(model)))
    sampling = recipe.sampling if recipe else SamplingParams()
    settings: dict[str, Any] = {
        "sampling": dataclasses.replace(sampling, temperature=temperature),
        "context": recipe.context if recipe else ContextConfig(),
    }
    if server is not None:
        saved = Path(model) / MODEL  # where the run has not ended here, its recipe is believed
        if recipe is not None and saved.is_dir() and not _reads_pictures(saved):
            settings["context"] = dataclasses.replace(recipe.context, screenshots=0)
        remote = BACKENDS.get("openai")(server, model, api_key_env=api_key_env)
        return LanguagePolicy(remote, None, name=model, **settings)
    from agentgym.models.load import load_model

    name = str(load_run_model(Path(model))) if recipe is not None else model
    with err.status(f"loading {name}"):
        loaded = load_model(name)
    local = BACKENDS.get(backend)(loaded)
    return LanguagePolicy(
        local, loaded.tokenizer, name=loaded.name, vision=loaded.vision, **settings
    )


if __name__ == "__main__":
    main()
