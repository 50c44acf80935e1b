"""The command line, as a user types it."""

import contextlib
import http.server
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agentgym import cli, tables
from agentgym.actions import ActionSet
from agentgym.core import AgentEnv
from agentgym.spaces import ActionText, observation_space
from agentgym.store import TrajectoryStore
from agentgym.types import Observation

Cli = Callable[..., tuple[int, str, str]]


def say(word: str) -> None:
    """Say a word."""


class Echo(AgentEnv):
    """Say what is asked; `word` is a keyword so that --env can set it."""

    def __init__(self, word: str = "yes", images: bool = False) -> None:
        self.word = word
        self.action_set = ActionSet([say])
        self.action_space = ActionText(self.action_set)
        self.observation_space = observation_space()

    @property
    def has_oracle(self) -> bool:
        return True

    def oracle_action(self) -> str:
        return f'say("{self.word}")'

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._shown(""), {}

    def _shown(self, error: str) -> Observation:
        return {"goal": f"Say {self.word}", "text": "[ready]", "error": error}

    def step(self, action: str) -> Any:
        reading = self.action_set.read(action)
        won = reading.call is not None and reading.call.arguments["word"] == self.word
        info = {**reading.info(), "success": won}
        return self._shown(reading.error), float(won), won, False, info


@pytest.fixture(scope="module", autouse=True)
def _echo() -> None:
    gym.register(
        "agentgym/echo-v0", entry_point=lambda **keywords: Echo(**keywords), max_episode_steps=3
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentgym", *words])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_envs_as_json_lists_registered_ids(run: Cli) -> None:
    code, out, _ = run("envs", "echo", "--json")
    assert code == 0
    assert [row["id"] for row in json.loads(out)] == ["agentgym/echo-v0"]


def test_rollout_keeps_trajectories_and_counts_success(run: Cli, tmp_path: Path) -> None:
    code, out, _ = run(
        "rollout", "echo-v0", "--episodes", "2", "--store", str(tmp_path / "s"), "--json"
    )
    assert code == 0
    assert json.loads(out)["tasks"]["agentgym/echo-v0"]["successes"] == 2
    with TrajectoryStore(tmp_path / "s") as store:
        assert [t.success for t in store] == [True, True]


def test_env_keywords_reach_the_environment(run: Cli) -> None:
    code, out, _ = run("rollout", "echo-v0", "--env", "word=no", "--episodes", "1", "--json")
    assert code == 0
    assert json.loads(out)["mean"] == 1.0


def test_play_shows_errors_and_lets_the_oracle_help(
    run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["shout", ""])
    monkeypatch.setattr(tables.out, "input", lambda prompt: next(lines))
    code, out, _ = run("play", "echo-v0")
    assert code == 0
    assert "Say yes" in out
    assert "No action found" in out
    assert "[ready]" in out
    assert 'say("yes")' in out
    assert out.rstrip().endswith("success, return 1")


def test_what_is_recorded_is_replayed(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "play.jsonl"
    lines = iter(["shout", ""])
    monkeypatch.setattr(tables.out, "input", lambda prompt: next(lines))
    assert run("play", "echo-v0", "--record", str(file), "--env", "word=no")[0] == 0
    code, out, _ = run("replay", str(file))
    assert (code, "1 episodes, 2 equal steps" in out, "equal to the end" in out) == (0, True, True)
    file.write_text(
        file.read_text().replace("Say no", "Say No").replace('"reward": 1', '"reward": 2')
    )
    code, out, _ = run("replay", str(file))
    assert code == 1
    assert "differs in episode 1 at step 2: reward" in out
    assert json.loads(run("replay", str(file), "--json")[1])["divergence"]["recorded"] == 2
    assert "cannot be read" in run("replay", str(tmp_path / "none"))[2]
    folder = tmp_path / "all"
    words = ("rollout", "echo-v0", "--episodes", "3", "--num-envs", "2", "--record", str(folder))
    assert run(*words)[0] == 0
    assert len(list(folder.iterdir())) == 2
    assert all(run("replay", str(each))[0] == 0 for each in folder.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rollout", "ecko-v0"), "Did you mean 'agentgym/echo-v0'"),
        (("rollout", "echo-v0", "--policy", "guess"), "oracle, random or model, got 'guess'"),
        (("rollout", "echo-v0", "--env", "word"), "must be key=value"),
        (("train", "demos"), "Did you mean 'demo'"),
        (("train", "missing.toml"), "does not exist"),
        (("train", "demo", "--set", "iteration=3"), "Did you mean 'iterations'"),
        (("eval", "/no/such/model", "echo-v0"), "/no/such/model"),
        (("eval", "tiny", "echo-v0", "--backend", "magic"), "engine or hf, got 'magic'"),
        (("eval", "m", "echo-v0", "--server", "ftp://x"), "http://"),
        (("report", "/no/such/run"), "holds no run"),
    ],
)
def test_mistakes_are_one_line_with_the_fix(run: Cli, words: tuple[str, ...], told: str) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_train_refuses_to_delete_what_is_no_run(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    code, _, err = run("train", "demo", "--out", str(tmp_path), "--fresh")
    assert code == 2
    assert "not deleting it" in err
    assert (tmp_path / "precious").exists()


def test_keys_of_a_recipe_can_be_listed(run: Cli) -> None:
    code, out, _ = run("train", "demo", "--show-keys")
    assert code == 0
    assert "tasks.env_ids" in out
    assert "evaluation.episodes_per_task" in out


def test_data_is_made_enlarged_and_shown(run: Cli, tmp_path: Path) -> None:
    words = ("data", "make", "echo-v0", "--out", str(tmp_path / "d"), "--mix", "expert=1,random=1")
    code, out, _ = run(*words, "--episodes", "4", "--json")
    assert code == 0
    assert json.loads(out)["expert"]["successes"] == 2
    code, out, _ = run(*words, "--episodes", "6")
    assert code == 0
    code, again, _ = run("data", "show", str(tmp_path / "d"), "--json")
    assert {name: row["episodes"] for name, row in json.loads(again).items()} == {
        "expert": 3,
        "random": 3,
    }
    code, _, err = run(*words, "--episodes", "6", "--seed", "1")
    assert (code, "with seed=0, not 1" in err) == (2, True)


def test_validate_fails_where_chance_wins(run: Cli) -> None:
    code, out, _ = run("validate", "echo-v0", "--episodes", "2", "--json")
    assert code == 0
    assert json.loads(out)["environments"][0]["rates"]["oracle"]["successes"] == 2
    gym.register("agentgym/lost-v0", entry_point=lambda **k: _Lost(**k), max_episode_steps=3)
    try:
        code, out, _ = run("validate", "lost-v0", "--episodes", "20")
    finally:
        del gym.registry["agentgym/lost-v0"]
    assert code == 1
    assert "agentgym/lost-v0: oracle won 0 of 20, expected 100%" in out


class _Lost(Echo):
    def oracle_action(self) -> str:
        return 'say("never")'


@pytest.mark.parametrize("backend", ["engine", "hf"])
def test_eval_of_a_local_model(run: Cli, backend: str) -> None:
    code, out, _ = run("eval", "tiny", "echo-v0", "--backend", backend, "--episodes", "2", "--json")
    assert code == 0
    assert json.loads(out)["tasks"]["agentgym/echo-v0"]["episodes"] == 2


@contextlib.contextmanager
def answering(status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """A server that says yes, or fails; its address and what it is asked."""
    asked: list[Any] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            message = {"role": "assistant", "content": 'I do.\nsay("yes")'}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            answer |= {"choices": [choice]}
            body = json.dumps(answer if status == 200 else {"error": {"message": "no"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def test_eval_of_a_model_at_a_server(run: Cli) -> None:
    with answering() as (url, asked):
        code, out, _ = run("eval", "m", "echo-v0", "--server", url, "--episodes", "2", "--json")
    assert code == 0
    assert json.loads(out)["mean"] == 1.0
    assert [request["model"] for request in asked] == ["m", "m"]
    assert asked[0]["temperature"] == 0.0


def test_eval_without_a_single_score_says_why_and_fails(run: Cli) -> None:
    with answering(400) as (url, _):
        code, out, _ = run("eval", "m", "echo-v0", "--server", url, "--episodes", "2")
        assert code == 1
        assert "2 unscored: " in out
        code, out, _ = run("eval", "m", "echo-v0", "--server", url, "--episodes", "2", "--json")
    assert code == 1
    assert json.loads(out)["mean"] is None


@pytest.mark.parametrize(("saved", "sees"), [("processor_config.json", 1), ("", 0), (None, 1)])
def test_a_runs_model_at_a_server_is_shown_pictures_if_it_reads_them(
    run: Cli, tmp_path: Path, saved: str | None, sees: int
) -> None:
    """A run without a model here may have one there that does."""
    if saved is not None:
        (tmp_path / "model").mkdir()
    if saved:
        (tmp_path / "model" / saved).write_text("{}")
    (tmp_path / "recipe.toml").write_text(
        'name = "r"\ntrainer = "filtered_bc"\n[model]\nname = "tiny"\n[env]\nimages = true\n'
        '[tasks]\nenv_ids = ["agentgym/points24-v0"]\n'
    )
    with answering() as (url, asked):
        assert run("eval", str(tmp_path), "--server", url, "--episodes", "1")[0] == 0
    assert ("image_url" in json.dumps(asked[0])) == sees
