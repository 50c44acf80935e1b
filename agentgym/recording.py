"""Episodes written down as they are played, and played again: exactly, or up to where they differ.

A recording is a file of JSON lines, each written when it happens, so that a process that is killed
leaves all but its last line: first what was played (``recording``), then ``reset`` and ``step`` in
order, and for environments that use a network ``exchange`` (a request and its answer), ``frame``
(something on a web socket) and ``content`` (bytes, once each; large ones are files in a folder
beside the recording). Nothing in it is code.
"""

import base64
import binascii
import contextlib
import difflib
import hashlib
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentgym.durable import make_folder, plain, write_bytes, write_error
from agentgym.errors import ConfigError, EnvFailureError, StoreError
from agentgym.tape import Exchange, Frame, Tape, Taped

Env = gym.Env[Any, Any]
VERSION = 1
_TEXTS = ("goal", "text", "error")  # of an observation: kept, so that a difference can be shown
_CLIP = 2000
MAX_INLINE = 1_000_000
"""Larger contents are files of their own."""


# ---- writing ---------------------------------------------------------------------------------


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Writes down every episode of an environment.

    Args:
        env: from `gymnasium.make`; it is made again from its spec for the replay.
        file: must not be there yet; folders are made.

    Raises:
        ConfigError: the environment has no spec, or arguments that are no JSON values.
        StoreError: the file is there, or cannot be written.
    """

    def __init__(self, env: Env, file: Path | str) -> None:
        super().__init__(env)
        if env.spec is None:
            raise ConfigError(f"{env} has no spec; make it by gymnasium.make to record it")
        self.file = Path(file)
        try:
            arguments = plain(env.spec.kwargs, "the environment's arguments")
        except StoreError as error:
            raise ConfigError(f"{env.spec.id} cannot be recorded: {error}") from error
        make_folder(self.file.absolute().parent)
        try:
            self._out = self.file.open("x", encoding="utf-8")
        except FileExistsError as error:
            raise StoreError(f"{self.file} is there already; name another file") from error
        except OSError as error:
            raise write_error(self.file, error) from error
        self._lock = threading.Lock()
        self._kept: set[str] = set()
        started = time.time()
        self._line(
            "recording", version=VERSION, env_id=env.spec.id, arguments=arguments, started=started
        )
        self.tape: Tape | None = None
        if isinstance(env.unwrapped, Taped):
            self.tape = env.unwrapped.tape = Tape(self._tell, started=started)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; without a seed one is drawn, so that it can be played again."""
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if self.tape is not None:
            self.tape.begin()
        given = plain(options, "options")
        with self._told("reset", seed=seed, options=given):
            observation, info = self.env.reset(seed=seed, options=options)
        self._line("reset", seed=seed, options=given, **_seen(observation))
        self._sync()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play on."""
        given = plain(action, "an action")
        with self._told("step", action=given):
            observation, reward, terminated, truncated, info = self.env.step(action)
        result = _result(float(reward), terminated, truncated, info)
        self._line("step", action=given, **_seen(observation), **result)
        if terminated or truncated:
            self._sync()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment and the file; may be called twice."""
        try:
            self.env.close()
        finally:
            if not self._out.closed:
                self._sync()
                self._out.close()

    @contextlib.contextmanager
    def _told(self, kind: str, **what: Any) -> Iterator[None]:
        """Write down how the environment failed, if it does."""
        try:
            with self.tape.happening() if self.tape is not None else contextlib.nullcontext():
                yield
        except EnvFailureError as error:
            self._line(kind, **what, failure=f"{type(error).__name__}: {error}"[:_CLIP])
            raise

    def _tell(self, what: Exchange | Frame) -> None:
        assert self.tape is not None
        if isinstance(what, Frame):
            told = {name: getattr(what, name) for name in Frame.__slots__}
            told["data"] = base64.b64encode(what.data).decode()
            self._line("frame", **told)
        else:
            self._exchange(what, self.tape.episode)

    def _content(self, body: bytes) -> str:
        """Keep bytes, if they are new; returns their name."""
        digest = hashlib.sha256(body).hexdigest() if body else ""
        with self._lock:
            new = digest not in self._kept
            self._kept.add(digest)
        if digest and new:
            if len(body) <= MAX_INLINE:
                self._line("content", sha256=digest, data=base64.b64encode(body).decode())
            else:
                contents = contents_of(self.file)
                make_folder(contents)
                write_bytes(contents / digest, body)
                self._line("content", sha256=digest)
        return digest

    def _exchange(self, exchange: Exchange, episode: int) -> None:
        digest = self._content(exchange.body)
        self._line(
            "exchange",
            episode=episode,
            method=exchange.method,
            url=exchange.url,
            sent=exchange.sent,
            status=exchange.status,
            headers=[list(pair) for pair in exchange.headers],
            content=digest,
            problem=exchange.problem,
            asked=[list(pair) for pair in exchange.asked],
            posted=exchange.posted,
            document=exchange.document,
        )

    def _line(self, kind: str, **values: Any) -> None:
        text = json.dumps({"kind": kind, **values}, ensure_ascii=True)
        with self._lock:
            if self._out.closed:  # an answer that came after the end
                return
            try:
                self._out.write(f"{text}\n")
                self._out.flush()
            except OSError as error:
                raise write_error(self.file, error) from error

    def _sync(self) -> None:
        os.fsync(self._out.fileno())


def recorded(folder: Path | str, make: Callable[[str], Env]) -> Callable[[str], Env]:
    """Makes environments that are recorded, each in a new file of a folder.

    Args:
        folder: made if it is not there.
        make: makes an environment of its id.
    """
    where = Path(folder)

    def make_recorded(env_id: str) -> Env:
        name = env_id.rpartition("/")[2]
        for number in itertools.count(1):
            file = where / f"{name}-{number}.jsonl"
            if file.exists():
                continue
            env = make(env_id)
            try:
                return Recorder(env, file)
            except BaseException as error:
                env.close()
                if not (isinstance(error, StoreError) and file.exists()):
                    raise  # else somebody else took the name first
        raise AssertionError("unreachable")

    return make_recorded


def _seen(observation: Any) -> dict[str, Any]:
    """An observation's hash, and its texts."""
    texts = {}
    if isinstance(observation, Mapping):
        texts = {name: observation[name] for name in _TEXTS if name in observation}
    elif isinstance(observation, str):
        texts = {"text": observation}
    return {"observation": observation_hash(observation), "texts": texts}


def _result(
    reward: float, terminated: bool, truncated: bool, info: Mapping[str, Any]
) -> dict[str, Any]:
    result: dict[str, Any] = {"reward": reward}
    result |= {"terminated": bool(terminated), "truncated": bool(truncated)}
    return result | {"success": plain(info["success"])} if "success" in info else result


def observation_hash(observation: Any) -> str:
    """SHA-256 of an observation: equal ones have equal hashes, on every machine.

    Example:
        >>> a, b = {"x": np.zeros(2), "y": "z"}, {"y": "z", "x": np.zeros(2)}
        >>> observation_hash(a) == observation_hash(b) != observation_hash({"x": np.ones(2)})
        True
    """
    digest = hashlib.sha256()
    _feed(digest.update, observation)
    return digest.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, Mapping):
        update(b"{")
        for key in sorted(value, key=str):
            _feed(update, str(key))
            _feed(update, value[key])
        update(b"}")
    elif isinstance(value, list | tuple):
        update(b"[")
        for item in value:
            _feed(update, item)
        update(b"]")
    elif isinstance(value, np.ndarray):
        update(f"a{value.dtype.str}{value.shape}".encode())
        update(np.ascontiguousarray(value).tobytes())
    else:
        text = json.dumps(plain(value, "an observation"))
        update(f"j{len(text)}:{text}".encode())


# ---- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file holds."""

    env_id: str
    arguments: Mapping[str, Any]
    started: float
    """Seconds since 1970."""
    events: tuple[Mapping[str, Any], ...]
    """``reset`` and ``step``, in order."""
    exchanges: tuple[Exchange, ...] = field(repr=False, default=())
    frames: tuple[Frame, ...] = field(repr=False, default=())
    cut: bool = False
    """The last line is not whole: whoever wrote it was killed."""


def read_recording(file: Path | str) -> Recording:
    """Read a recording, as far as it was written.

    Raises:
        StoreError: it is no recording, or a line before the last one is damaged.
    """
    path = Path(file)
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    cut = lines.pop() != ""
    entries = [_entry(path, number, line) for number, line in enumerate(lines, 1)]
    if not entries or entries[0]["kind"] != "recording" or entries[0].get("version") != VERSION:
        raise StoreError(f"{path} is no recording of version {VERSION}")
    contents: dict[str, bytes] = {"": b""}
    exchanges, frames = [], []
    try:
        for entry in entries:
            if entry["kind"] == "content":
                contents[entry["sha256"]] = _content_of(path, entry)
            elif entry["kind"] == "frame":
                told = {name: entry[name] for name in Frame.__slots__}
                told["data"] = base64.b64decode(entry["data"], validate=True)
                frames.append(Frame(**told))
            elif entry["kind"] == "exchange":
                exchanges.append(
                    Exchange(
                        method=entry["method"],
                        url=entry["url"],
                        sent=entry["sent"],
                        status=entry["status"],
                        headers=tuple((str(k), str(v)) for k, v in entry["headers"]),
                        body=contents[entry["content"]],
                        problem=entry["problem"],
                        episode=entry["episode"],
                        asked=tuple((str(k), str(v)) for k, v in entry["asked"]),
                        posted=entry["posted"],
                        document=entry["document"],
                    )
                )
        head = entries[0]
        events = tuple(entry for entry in entries if entry["kind"] in ("reset", "step"))
        return Recording(
            head["env_id"],
            head["arguments"],
            head["started"],
            events,
            tuple(exchanges),
            tuple(frames),
            cut,
        )
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise StoreError(f"{path} is damaged: {error!r}") from error


def contents_of(file: Path) -> Path:
    """The folder beside a recording for what is too large to stand in it."""
    return file.with_name(f"{file.name}.contents")


def _content_of(path: Path, entry: Mapping[str, Any]) -> bytes:
    if "data" in entry:
        return base64.b64decode(str(entry["data"]), validate=True)
    if not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
        raise StoreError(f"{path} is damaged: {entry['sha256']!r} names no content")
    file = contents_of(path) / str(entry["sha256"])
    try:
        body = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file} belongs to {path} and cannot be read: {error}") from error
    if hashlib.sha256(body).hexdigest() != entry["sha256"]:
        raise StoreError(f"{file} is damaged: it is not what was recorded")
    return body


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str):
            return entry
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}, line {number} is damaged: {error}") from error
    raise StoreError(f"{path}, line {number} is no line of a recording: {line[:80]!r}")


# ---- playing again ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a replay first differed."""

    episode: int
    """From 1."""
    step: int
    """From 1; 0 is the reset."""
    what: str
    """``observation``, ``reward``, ``terminated``, ``truncated``, ``success`` or ``failure``."""
    recorded: Any
    replayed: Any
    change: str = ""
    """Of the observation's texts, as a unified difference."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a replay went."""

    env_id: str
    episodes: int
    steps: int
    """That were played again and equal."""
    divergence: Divergence | None = None
    unanswered: tuple[str, ...] = ()
    """What was asked of the network and the recording has no answer for."""
    cut: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        d = self.divergence
        return {
            "env_id": self.env_id,
            "episodes": self.episodes,
            "steps": self.steps,
            "equal": d is None,
            "divergence": None if d is None else {n: getattr(d, n) for n in d.__slots__},
            "unanswered": list(self.unanswered),
            "cut": self.cut,
        }


def replay(file: Path | str, make: Callable[..., Env] = gym.make) -> Report:
    """Play a recording again, up to the first difference.

    A network is not used: what was answered then is answered now, anything else fails.

    Args:
        file: of a `Recorder`.
        make: makes the environment, from id and arguments.

    Raises:
        StoreError: the file is no recording.
        EnvFailureError: the environment failed where it had not, and not at its network.
    """
    recording = read_recording(file)
    env = make(recording.env_id, **recording.arguments)
    tape: Tape | None = None
    if isinstance(env.unwrapped, Taped):
        tape = Tape(
            started=recording.started, exchanges=recording.exchanges, frames=recording.frames
        )
        env.unwrapped.tape = tape
    episodes = steps = at = 0
    divergence = None
    try:
        for event in recording.events:
            if event["kind"] == "reset":
                episodes, at = episodes + 1, 0
                if tape is not None:
                    tape.begin()
            else:
                at += 1
            with tape.happening() if tape is not None else contextlib.nullcontext():
                played = _played(env, event)
            divergence = _compared(event, played, episodes, at)
            if divergence is not None or "failure" in event:
                break
            steps += event["kind"] == "step"
    finally:
        env.close()
    unanswered = tuple(tape.unanswered) if tape is not None else ()
    return Report(recording.env_id, episodes, steps, divergence, unanswered, recording.cut)


def _played(env: Env, event: Mapping[str, Any]) -> dict[str, Any]:
    """What happens when the event is done again."""
    try:
        if event["kind"] == "reset":
            observation, _ = env.reset(seed=event["seed"], options=event["options"])
            return _seen(observation)
        observation, reward, terminated, truncated, info = env.step(event["action"])
    except EnvFailureError as error:
        return {"failure": f"{type(error).__name__}: {error}"[:_CLIP]}
    return {**_seen(observation), **_result(float(reward), terminated, truncated, info)}


def _compared(
    event: Mapping[str, Any], played: Mapping[str, Any], episode: int, step: int
) -> Divergence | None:
    names = ("failure", "observation", "reward", "terminated", "truncated", "success")
    for name in names:
        before, after = event.get(name), played.get(name)
        if before != after:
            change = ""
            if name == "observation":
                change = _change(event["texts"], played["texts"])
            return Divergence(episode, step, name, before, after, change)
    return None


def _change(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    lines: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, "").split("\n"), after.get(name, "").split("\n")
        lines += difflib.unified_diff(
            old, new, f"recorded {name}", f"replayed {name}", "", "", 1, ""
        )
    return "\n".join(lines) or "the texts are equal; what differs is a picture"
