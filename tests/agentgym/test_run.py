"""Runs: the phases, exact resume after a kill, and refusals. A tiny model and a toy environment."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from agentgym import config, metrics
from agentgym.errors import ConfigError, TrainingError
from agentgym.progress import Progress
from agentgym.recipe import Recipe, before_online
from agentgym.run import Run, load_run_model, phases_of
from agentgym.store import TrajectoryStore

TOY = '''
import gymnasium as gym
from agentgym.actions import ActionSet, ActionSpec, Parameter
from agentgym.core import AgentEnv
from agentgym.spaces import ActionText, observation_space

class Parity(AgentEnv):
    """Any text is an action; an even number of letters wins."""

    def __init__(self):
        self.action_set = ActionSet([ActionSpec("say", "Say it.", (Parameter("text"),))])
        self.action_space = ActionText(self.action_set)
        self.observation_space = observation_space()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = str(int(self.np_random.integers(1000)))
        return {"goal": f"Say {self.word}", "text": self.word, "error": ""}, {}

    def step(self, action):
        won = len(action) % 2 == 0
        info = {"action": "say()", "action_error": "", "parsed": True, "success": won}
        shown = {"goal": f"Say {self.word}", "text": "over", "error": ""}
        return shown, float(won), True, False, info

    has_oracle = True

    def oracle_action(self):
        return self.word + self.word

gym.register("toy/Parity-v0", entry_point=Parity)
'''

RECIPE: dict[str, Any] = {
    "name": "toy",
    "demonstrations": 6,
    "iterations": 4,
    "episodes_per_task": 8,
    "checkpoint_every_s": 0.0,  # after every optimiser step
    "model": {"name": "tiny", "dtype": "float32"},
    "tasks": {"env_ids": ["toy/Parity-v0"]},
    "context": {"max_tokens": 400, "instructions": "Go."},
    "sampling": {"max_tokens": 6},
    "rollout": {"num_envs": 4},
    "warm_start": {"learning_rate": 1e-3, "batch_size": 2},
    "train": {"learning_rate": 1e-3, "batch_size": 2, "replay_share": 0.25},
    "evaluation": {"episodes_per_task": 4, "every": 2},
}

WORKER = TOY + textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from agentgym.progress import Progress
    from agentgym.recipe import Recipe, load_recipe
    from agentgym.run import RECIPE, Run
    folder = Path(sys.argv[1])
    with Progress() as progress:
        if (folder / RECIPE).exists():
            run = Run.resume(folder, progress)
        else:
            run = Run.start(load_recipe(sys.argv[2]), folder, progress)
        run.execute()
    """
)


@pytest.fixture(scope="module", autouse=True)
def _toy() -> None:
    exec(TOY, {})  # registers the environment in this process too


def recipe(**changes: Any) -> Recipe:
    return config.load(Recipe, {**RECIPE, **changes})


def worker(folder: Path, plan: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(plan)], stderr=subprocess.PIPE
    )


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()[-2000:]


def final_state(folder: Path) -> dict[str, Any]:
    """Everything that must be equal: weights, episodes with their tokens, metrics, results."""
    weights = (folder / "model" / "model.safetensors").read_bytes()
    with TrajectoryStore(folder / "trajectories") as store:
        episodes = [
            (
                t.id,
                t.end,
                t.outcome,
                [
                    (
                        turn.text,
                        turn.weights_version,
                        _bytes(turn.action_ids),
                        _bytes(turn.logprobs),
                    )
                    for turn in t.turns
                ],
            )
            for t in sorted(store, key=lambda t: t.id)
        ]
    rows = [
        {k: v for k, v in row.items() if k not in ("time", "seconds")}
        for row in metrics.read(folder)
    ]
    evaluations = json.loads((folder / "summary.json").read_text())["evaluations"]
    return {"weights": weights, "episodes": episodes, "rows": rows, "evaluations": evaluations}


def _bytes(array: Any) -> bytes | None:
    return None if array is None else np.ascontiguousarray(array).tobytes()


def test_phases_of_a_recipe() -> None:
    names = [phase.name for phase in phases_of(recipe(iterations=2))]
    assert names == [
        "eval-before",
        "demonstrations",
        "warm-start",
        "iteration-1",
        "update-1",
        "iteration-2",
        "update-2",
        "eval-after",
    ]
    without = [phase.name for phase in phases_of(recipe(demonstrations=0, iterations=1))]
    assert without == ["eval-before", "iteration-1", "update-1", "eval-after"]
    assert "eval-2" in [phase.name for phase in phases_of(recipe())]


@pytest.mark.parametrize(("before", "place"), [("auto", 0), ("given", 0), ("warmed", 2)])
def test_what_is_evaluated_before(before: str, place: int) -> None:
    plan = recipe(evaluation={"before": before, "episodes_per_task": 2})
    assert phases_of(plan)[place].name == "eval-before"


def test_a_run_writes_what_it_promises(tmp_path: Path) -> None:
    with Progress() as progress:
        run = Run.start(recipe(iterations=1), tmp_path / "run", progress)
        summary = run.execute()
        again = Run.resume(tmp_path / "run", progress)
        assert again.finished
        assert again.execute()["evaluations"] == summary["evaluations"]
    assert summary["finished"]
    assert set(summary["evaluations"]) == {"before", "after"}
    with TrajectoryStore(tmp_path / "run" / "trajectories") as store:
        by_phase = [t.metadata["phase"] for t in store]
        demonstration = next(store.where(source="expert"))
        sampled = next(t for t in store if t.metadata["phase"] == "iteration-1")
    assert {p: by_phase.count(p) for p in set(by_phase)} == {
        "eval-before": 4,
        "demonstrations": 6,
        "iteration-1": 8,
        "eval-after": 4,
    }
    assert demonstration.success
    assert sampled.turns[0].weights_version == 1  # the warm start was the first update
    assert sampled.turns[0].logprobs is not None
    assert load_run_model(tmp_path / "run").is_dir()


def test_killed_and_resumed_equals_never_stopped(tmp_path: Path) -> None:
    plan = tmp_path / "toy.toml"
    plan.write_text(config.dump(recipe()))
    finish(worker(tmp_path / "whole", plan))
    whole = final_state(tmp_path / "whole")
    # Kill once while episodes are gathered and once inside an update, wherever that happens to be.
    folder = tmp_path / "cut"
    for phase in ("iteration-1", "update-2"):
        process = worker(folder, plan)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if _reached(folder, phase):
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert not json.loads((folder / "summary.json").read_text())["finished"]
    finish(worker(folder, plan))
    cut = final_state(folder)
    assert cut["rows"] == whole["rows"]
    assert cut["episodes"] == whole["episodes"]
    assert cut["weights"] == whole["weights"]
    assert cut["evaluations"] == whole["evaluations"]


def _reached(folder: Path, phase: str) -> bool:
    """True once the phase is under way: something of it was written."""
    if phase.startswith("update"):
        return folder.is_dir() and any(
            r["phase"] == phase and "loss" in r for r in metrics.read(folder)
        )
    try:
        return bool(json.loads((folder / "summary.json").read_text())["phase"] == phase)
    except FileNotFoundError:
        return False


def test_a_folder_with_a_run_is_not_begun_again(tmp_path: Path) -> None:
    with Progress() as progress:
        Run.start(recipe(), tmp_path, progress)
        with pytest.raises(ConfigError, match="--resume"):
            Run.start(recipe(), tmp_path, progress)
        with pytest.raises(ConfigError, match="holds no run"):
            Run.resume(tmp_path / "nothing", progress)


@pytest.mark.slow
def test_two_processes_go_on_with_a_run_as_one_does(launch: Any, tmp_path: Path) -> None:
    """Each plays its part and computes its share; the first one alone writes."""
    train = {"learning_rate": 1e-3, "batch_size": 2}
    plan = recipe(iterations=2, trainer="loop", train=train, group_size=2)
    folders = tmp_path / "one", tmp_path / "two"
    for folder, until in zip(folders, ("", "update-1"), strict=True):
        with Progress(quiet=True) as progress:
            Run.start(plan, folder, progress).execute(until)
    launch(2, lambda rank: ["-c", WORKER, str(folders[1])])
    one, two = (
        {t.id: t for t in TrajectoryStore(folder / "trajectories", read_only=True)}
        for folder in folders
    )
    assert set(one) == set(two)
    for id, trajectory in one.items():
        assert [turn.text for turn in trajectory.turns] == [t.text for t in two[id].turns], id
    rows = [
        [(row["phase"], row.get("success"), row.get("update_rows")) for row in metrics.read(folder)]
        for folder in folders
    ]
    assert rows[0] == rows[1]
    weights = [load_file(folder / "model" / "model.safetensors") for folder in folders]
    for name, tensor in weights[0].items():  # a step moves a weight by up to 1e-3
        np.testing.assert_allclose(tensor, weights[1][name], atol=2e-4, err_msg=name)


def test_unknown_trainer_keys_stop_before_anything_is_run(tmp_path: Path) -> None:
    with Progress() as progress, pytest.raises(ConfigError, match="learning_rate"):
        Run.start(recipe(train={"learning_rat": 1.0}), tmp_path, progress)
    assert not (tmp_path / "recipe.toml").exists()


def test_adapters_after_a_warm_start_of_all_weights_are_refused(tmp_path: Path) -> None:
    # A resumed run would put the saved adapters on weights that never saw the warm start.
    train = {**RECIPE["train"], "lora_rank": 2}
    with Progress() as progress, pytest.raises(ConfigError, match="its model folder"):
        Run.start(recipe(train=train), tmp_path / "run", progress)
    assert not (tmp_path / "run").exists()
    both = recipe(train=train, warm_start={**RECIPE["warm_start"], "lora_rank": 2})
    for fine in (both, recipe(train=train, demonstrations=0)):
        with Progress() as progress:
            Run.start(fine, tmp_path / f"run-{fine.demonstrations}", progress)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_engine_samples_with_the_current_weights(lora_rank: int, tmp_path: Path) -> None:
    found = {}
    for backend in ("hf", "engine"):
        settings = {"learning_rate": 1e-2, "lora_rank": lora_rank}
        plan = recipe(iterations=1, backend=backend, warm_start={**settings, "epochs": 2})
        with Progress() as progress:
            Run.start(plan, tmp_path / backend, progress).execute()
        found[backend] = final_state(tmp_path / backend)["episodes"]
    for ours, exact in zip(found["engine"], found["hf"], strict=True):
        assert ours[:3] == exact[:3]
        assert [turn[:3] for turn in ours[3]] == [turn[:3] for turn in exact[3]]  # all but rounding


def test_backends_take_options(tmp_path: Path) -> None:
    plan = recipe(iterations=0, backend="engine", backend_options={"memory": 1})
    with Progress() as progress, pytest.raises(ConfigError, match="memory must hold two pages"):
        Run.start(plan, tmp_path / "small", progress).execute()
    plan = recipe(iterations=0, backend_options={"memmory": 1})
    with Progress() as progress, pytest.raises(ConfigError, match=r"backend_options.*'memmory'"):
        Run.start(plan, tmp_path / "unknown", progress).execute()


def test_methods_may_ask_for_greedy_episodes(tmp_path: Path) -> None:
    plan = recipe(iterations=1, demonstrations=0, trainer="remax", train={"learning_rate": 1e-3})
    with Progress() as progress:
        Run.start(plan, tmp_path, progress).execute()
    with TrajectoryStore(tmp_path / "trajectories") as store:
        collected = [t for t in store if t.metadata["phase"] == "iteration-1"]
    greedy = [t for t in collected if t.metadata.get("greedy")]
    assert {t.task.id for t in greedy} == {t.task.id for t in collected}
    assert len(greedy) == 8
    assert all(turn.temperature == 0.0 for t in greedy for turn in t.turns)
    (row,) = [r for r in metrics.read(tmp_path) if r["phase"] == "iteration-1"]
    assert row["episodes"] == 8, "success of training is that of the sampled ones"


def test_a_model_from_scratch_is_made_once_and_resumed(tmp_path: Path) -> None:
    plan = recipe(model={"name": "new", "new": {"width": 32, "heads": 2}}, iterations=1)
    names = [phase.name for phase in phases_of(plan)]
    assert names[:3] == ["demonstrations", "warm-start", "eval-before"]
    finals = []
    for name, until in (("at-once", ""), ("in-two", "eval-before")):
        with Progress(quiet=True) as progress:
            if until:
                assert not Run.start(plan, tmp_path / name, progress).execute(until)["finished"]
                run = Run.resume(tmp_path / name, progress)
            else:
                run = Run.start(plan, tmp_path / name, progress)
            assert run.execute()["finished"]
        finals.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
        words = json.loads((tmp_path / name / "new-model" / "tokenizer.json").read_text())
        assert "goal" not in words["model"]["vocab"]
    assert finals[0] == finals[1]
    with pytest.raises(ConfigError, match="no phase 'lunch'"):
        run.execute("lunch")


def test_a_branch_goes_on_as_if_it_had_done_all_itself(tmp_path: Path) -> None:
    plan = recipe(iterations=1)
    with Progress(quiet=True) as progress:
        Run.start(before_online(plan), tmp_path / "warm", progress).execute("warm-start")
        branch = Run.branch(tmp_path / "warm", plan, tmp_path / "branch", progress)
        assert branch.phases[branch.phase].name == "iteration-1"
        branch.execute()
        Run.start(plan, tmp_path / "alone", progress).execute()
        with pytest.raises(ConfigError, match="holds a run already"):
            Run.branch(tmp_path / "warm", plan, tmp_path / "branch", progress)
        with pytest.raises(ConfigError, match="holds no run"):
            Run.branch(tmp_path / "nothing", plan, tmp_path / "other", progress)
    branched, alone = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("branch", "alone")
    )
    assert branched == alone
    assert not (tmp_path / "branch.partial").exists()


def test_a_run_learns_offline_from_a_store(tmp_path: Path) -> None:
    """The training episodes of another run, in every iteration anew; nothing is collected."""
    first = recipe(trainer="rloo", iterations=1, train={}, checkpoint_every_s=60.0)
    with Progress() as progress:
        Run.start(first, tmp_path / "first", progress).execute()
    offline = recipe(
        demonstrations=0,
        trainer="archer_offline",
        iterations=2,
        dataset=str(tmp_path / "first"),
        train={"critic_steps": 2, "critic_batch": 4, "actor_steps": 1, "batch_size": 4},
    )
    names = [phase.name for phase in phases_of(offline)]
    assert names == ["eval-before", "update-1", "update-2", "eval-after"]
    with Progress() as progress:
        Run.start(offline, tmp_path / "second", progress).execute()
    with TrajectoryStore(tmp_path / "first" / "trajectories", read_only=True) as store:
        given = sum(t.task.split == "train" for t in store)
    with TrajectoryStore(tmp_path / "second" / "trajectories", read_only=True) as store:
        assert {t.metadata["phase"] for t in store} == {"eval-before", "eval-after"}
    rows = metrics.read(tmp_path / "second")
    counts = [row["update_buffer"] for row in rows if "update_buffer" in row]
    assert counts == [given, given], (
        "episodes of one turn each; those of evaluations are no lessons"
    )


def test_a_dataset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    plan = recipe(dataset=str(tmp_path / "nothing"))
    with (
        Progress() as progress,
        pytest.raises(ConfigError, match="neither a run's folder nor a trajectory store"),
    ):
        Run.start(plan, tmp_path / "run", progress)
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_learn_stops_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Groups of one teach RLOO nothing: three idle updates end the run, and again if resumed."""
    plan = recipe(
        trainer="rloo", train={}, iterations=6, alarms={"stop_after": 3}, checkpoint_every_s=60.0
    )
    with (
        Progress() as progress,
        pytest.raises(TrainingError, match="3 updates in a row found nothing"),
    ):
        Run.start(plan, tmp_path, progress).execute()
    assert caplog.text.count("alarm nothing_to_learn") == 3
    rows = metrics.read(tmp_path)
    assert [row["phase"] for row in rows if row.get("update_steps") == 0] == [
        "update-1",
        "update-2",
        "update-3",
    ]
    counters = [row.get("alarm_nothing_to_learn") for row in rows if "update_steps" in row]
    assert counters == [None, 1, 2, 3], "of the warm start nobody judges"
    assert all("repeated_action_share" in row for row in rows if row["phase"] == "iteration-1")
    with Progress() as progress, pytest.raises(TrainingError, match="3 updates in a row"):
        Run.resume(tmp_path, progress).execute()
    assert len(metrics.read(tmp_path)) == len(rows), "what the update wrote was taken back first"
