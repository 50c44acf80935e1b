import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.errors import ConfigError, EnvFailureError, StoreError
from agentgym.recording import (
    MAX_INLINE,
    Recorder,
    contents_of,
    observation_hash,
    read_recording,
    replay,
)
from agentgym.tape import Exchange, Frame, Tape

MAZE = "agentgym/maze.random-v0"


def record(file: Path, *, seeds: tuple[int | None, ...] = (3,), env_id: str = MAZE) -> None:
    """Episodes of the oracle."""
    env = Recorder(gym.make(env_id), file)
    for seed in seeds:
        env.reset(seed=seed)
        over = False
        while not over:
            action = env.unwrapped.oracle_action()  # type: ignore[attr-defined]
            _, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    env.close()


def test_a_recording_plays_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "maze.jsonl"
    record(file, seeds=(3, None, 4))
    recording = read_recording(file)
    assert (recording.env_id, recording.cut) == (MAZE, False)
    assert recording.events[-1]["success"] is True
    report = replay(file)
    assert (report.episodes, report.divergence) == (3, None)
    assert report.steps == sum(event["kind"] == "step" for event in recording.events) > 3
    assert report.to_json()["equal"] is True
    with pytest.raises(StoreError, match="is there already"):
        record(file)


def changed(file: Path, number: int, **values: Any) -> None:
    lines = file.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | values)
    file.write_text("\n".join(lines) + "\n")


def test_the_first_difference_is_told(tmp_path: Path) -> None:
    file = tmp_path / "maze.jsonl"
    record(file)
    changed(file, 3, reward=0.5)
    report = replay(file)
    assert report.divergence is not None
    assert (report.divergence.episode, report.divergence.step) == (1, 2)
    assert (report.divergence.what, report.divergence.recorded) == ("reward", 0.5)
    assert (report.episodes, report.steps) == (1, 1)
    record(tmp_path / "other.jsonl")
    changed(tmp_path / "other.jsonl", 1, seed=4, texts={"text": "a\nwall"}, observation="0")
    divergence = replay(tmp_path / "other.jsonl").divergence
    assert divergence is not None
    assert (divergence.step, divergence.what) == (0, "observation")
    assert "-wall" in divergence.change
    assert json.loads(json.dumps(replay(file).to_json()))["divergence"]["step"] == 2


def test_a_killed_recorder_leaves_all_but_its_last_line(tmp_path: Path) -> None:
    file = tmp_path / "maze.jsonl"
    record(file)
    whole = file.read_bytes()
    steps = replay(file).steps
    file.write_bytes(whole[:-20])
    report = replay(file)
    assert (report.cut, report.steps, report.divergence) == (True, steps - 1, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "[]\n",
        '{"kind": "step"}\n',
        '{"kind": "recording", "version": 2}\n',
        '{"kind": "recording", "version": 1}\n',
        '{"kind": "recording", "version": 1, "env_id": "x", "started": 0}\n{\n{}\n',
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(text)
    with pytest.raises(StoreError):
        read_recording(file)
    with pytest.raises(StoreError, match="cannot be read"):
        read_recording(tmp_path / "none.jsonl")


class Flaky(gym.Env[Any, Any]):
    """Fails at its second step, as often as it is told."""

    observation_space = action_space = gym.spaces.Text(10)
    failures = 1

    def __init__(self, **_: Any) -> None:
        self.steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.steps = 0
        return "start", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 2 and Flaky.failures:
            raise EnvFailureError("broken")
        return "on", 0.0, False, False, {}


def test_failures_are_recorded_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gym.register("test/flaky-v0", entry_point=Flaky, disable_env_checker=True)
    env = Recorder(gym.make("test/flaky-v0"), tmp_path / "a.jsonl")
    env.reset(seed=1)
    env.step("go")
    with pytest.raises(EnvFailureError):
        env.step("go")
    env.close()
    assert replay(tmp_path / "a.jsonl").divergence is None
    monkeypatch.setattr(Flaky, "failures", 0)
    divergence = replay(tmp_path / "a.jsonl").divergence
    assert divergence is not None
    assert (divergence.step, divergence.what) == (2, "failure")
    assert divergence.recorded == "EnvFailureError: broken"
    with pytest.raises(ConfigError, match="cannot be recorded"):
        Recorder(gym.make("test/flaky-v0", note=object()), tmp_path / "b.jsonl")
    with pytest.raises(ConfigError, match="has no spec"):
        Recorder(Flaky(), tmp_path / "b.jsonl")
    del gym.registry["test/flaky-v0"]


def test_hashes_tell_pictures_apart() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    other = image.copy()
    other[1, 2, 0] = 1
    seen = {observation_hash({"text": "a", "image": i}) for i in (image, other, image[:1])}
    assert len(seen) == 3
    assert observation_hash(["a", "b"]) != observation_hash(["ab"])
    assert observation_hash((1, 2.5, None)) == observation_hash([1, 2.5, None])


class Shop(gym.Env[str, str]):
    """Asks its network for one thing and says how large it is."""

    observation_space = gym.spaces.Text(100)
    action_space = gym.spaces.Text(100)

    def __init__(self) -> None:
        self.tape: Tape | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        assert self.tape is not None
        if self.tape.recording:
            body = b"x" * (MAX_INLINE + 1)
            self.tape.record(Exchange("GET", "http://a/", status=200, body=body))
            self.tape.record(Frame("ws://a/", 0, "came", b"hi", moment=self.tape.moment, episode=1))
        found = self.tape.answer("GET", "http://a/")
        return str(MAX_INLINE + 1 if found is None else len(found.body)), {}


@pytest.fixture
def shop() -> Iterator[str]:
    gym.register("test/shop-v0", lambda **_: Shop())
    yield "test/shop-v0"
    del gym.registry["test/shop-v0"]


def test_large_contents_lie_beside_the_recording(shop: str, tmp_path: Path) -> None:
    file = tmp_path / "shop.jsonl"
    env = Recorder(gym.make(shop, disable_env_checker=True), file)
    for _ in range(2):
        env.reset(seed=0)
    env.close()
    (content,) = contents_of(file).iterdir()  # once
    assert content.stat().st_size == MAX_INLINE + 1
    assert file.stat().st_size < 10_000
    recording = read_recording(file)
    assert [len(exchange.body) for exchange in recording.exchanges] == [MAX_INLINE + 1] * 2
    assert recording.frames[0] == Frame("ws://a/", 0, "came", b"hi", moment=1, episode=1)
    assert replay(file, lambda *_: gym.make(shop, disable_env_checker=True)).divergence is None
    content.write_bytes(b"y")
    with pytest.raises(StoreError, match="is damaged: it is not what was recorded"):
        read_recording(file)
    content.unlink()
    with pytest.raises(StoreError, match=r"belongs to .*shop.jsonl and cannot be read"):
        read_recording(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    number = next(i for i, line in enumerate(lines) if line["kind"] == "content")
    changed(file, number, sha256="../../etc/passwd")
    with pytest.raises(StoreError, match="names no content"):
        read_recording(file)
