"""MiniWoB played by other packages, in interpreters of their own, for `benchmark`.

BrowserGym and Farama's MiniWoB++ pin versions that do not go together with ours. Each is run by a
small script that its own interpreter gets on the command line; it answers one line of JSON to one.
"""

import inspect
import json
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from agentgym.bench import Measurement
from agentgym.errors import BrowserError, MissingDependencyError

Package = Literal["browsergym", "farama"]
DEADLINE_S = 300.0
"""For one repetition of a package, and for its start."""
_MARK = "agentgym:"  # what packages print besides is no answer
Move = tuple[str, str, str, int]
"""``click`` or ``fill``, role, the name or else the text to fill in, and which one of several."""


def moves(task: str, goal: str) -> "list[Move]":
    """What solves a task: the same moves for everybody. Sent to the other interpreters as it is.

    Example:
        >>> moves("enter-text", 'Enter "Bob" into the text field and press Submit.')
        [('fill', 'textbox', 'Bob', 0), ('click', 'button', '', 0)]
    """
    done: list[Move] = [("click", "button", "", 0)]
    if task == "click-checkboxes":
        words = goal.removeprefix("Select ").removesuffix(" and click Submit.")
        names = [] if words == "nothing" else words.split(", ")
        return [("click", "checkbox", n, names[:i].count(n)) for i, n in enumerate(names)] + done
    texts = re.findall('"(.+?)"', goal) if task in ("enter-text", "login-user") else []
    return [("fill", "textbox", text, i) for i, text in enumerate(texts)] + done


_COMMON = """
import json, re, sys, time
Move = tuple
{moves}
SETTINGS = json.loads(sys.argv[1])
envs = {{}}

def play(task, seeds, page_seeds):
    if task not in envs:
        envs[task] = make(task)
    env, episodes, resets, steps = envs[task], [], [], []
    for seed, page_seed in zip(seeds, page_seeds):
        begun = time.perf_counter()
        obs, _ = env.reset(seed=seed_of(seed, page_seed))
        resets.append(time.perf_counter() - begun)
        goal, total, count = goal_of(obs), 0.0, 0
        for move in moves(task, goal):
            action = action_of(env, obs, *move)
            begun = time.perf_counter()
            obs, reward, terminated, truncated, _ = env.step(action)
            steps.append(time.perf_counter() - begun)
            total, count = total + float(reward > 0), count + 1
            if terminated or truncated:
                break
        episodes.append([seed, " ".join(goal.split()), count, total])
    return dict(episodes=episodes, reset=resets, step=steps)

def serve():
    for line in sys.stdin:
        answer = play(**json.loads(line))
        print("agentgym:" + json.dumps(answer), flush=True)
    for env in envs.values():
        env.close()
"""
_BROWSERGYM = """
import gymnasium, browsergym.miniwob

def make(task):
    return gymnasium.make("browsergym/miniwob." + task, **SETTINGS)

def seed_of(seed, page_seed):
    return seed

def goal_of(obs):
    return obs["goal"]

def action_of(env, obs, kind, role, text, nth):
    nodes = [n for n in obs["axtree_object"]["nodes"]
             if n.get("role", {}).get("value") == role and n.get("browsergym_id")]
    if role == "checkbox":
        nodes = [n for n in nodes if n["name"]["value"].strip() == text]
    bid = nodes[nth]["browsergym_id"]
    return f"click('{bid}')" if kind == "click" else f"fill('{bid}', {text!r})"

serve()
"""
_FARAMA = """
import gymnasium, miniwob
from miniwob.action import ActionTypes
gymnasium.register_envs(miniwob)

def make(task):
    return gymnasium.make("miniwob/" + task + "-v1", **SETTINGS)

def seed_of(seed, page_seed):
    return page_seed

def goal_of(obs):
    return obs["utterance"]

def action_of(env, obs, kind, role, text, nth):
    dom = obs["dom_elements"]
    tags = {"button": ("button",), "checkbox": ("input_checkbox",),
            "textbox": ("input_text", "input_password")}[role]
    found = [e for e in dom if e["tag"] in tags]
    if role == "checkbox":
        said = {e["parent"]: e["text"].strip() for e in dom if e["tag"] == "t"}
        said.update({e["ref"]: e["text"].strip() for e in dom if e["tag"] == "label" and e["text"]})
        found = [e for e in found if said.get(e["parent"]) == text]
    ref = found[nth]["ref"]
    if kind == "click":
        return env.unwrapped.create_action(ActionTypes.CLICK_ELEMENT, ref=ref)
    return env.unwrapped.create_action(
        ActionTypes.FOCUS_ELEMENT_AND_TYPE_TEXT, ref=ref, text=text)

serve()
"""
_SCRIPTS: Mapping[Package, str] = {"browsergym": _BROWSERGYM, "farama": _FARAMA}


class Foreign:
    """Another package that plays MiniWoB, as long as it is open.

    Args:
        package: which one.
        interpreter: a Python that has it.
        html: address of the folder of MiniWoB's pages, with a slash at the end.
        settings: arguments of the package's environment.

    Raises:
        MissingDependencyError: that interpreter does not run.
    """

    def __init__(
        self, package: Package, interpreter: str, html: str, settings: Mapping[str, Any]
    ) -> None:
        import os

        self.package = package
        script = _COMMON.format(moves=inspect.getsource(moves)) + _SCRIPTS[package]
        try:
            self._process = subprocess.Popen(
                [interpreter, "-c", script, json.dumps(dict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=dict(os.environ) | {"MINIWOB_URL": html},
                start_new_session=True,
            )
        except OSError as error:
            raise MissingDependencyError(f"{interpreter} does not run: {error}") from error
        self._errors: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def play(self, task: str, seeds: Sequence[int], page_seeds: Sequence[int]) -> Measurement:
        """Play one episode for each seed.

        Raises:
            BrowserError: the package failed, or took longer than `DEADLINE_S`.
        """
        request = {"task": task, "seeds": list(seeds), "page_seeds": list(page_seeds)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(DEADLINE_S, self._kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith(_MARK):
                    return _measurement(json.loads(line.removeprefix(_MARK)))
        except OSError as error:
            raise self._failed() from error
        finally:
            timer.cancel()
        raise self._failed()

    def close(self) -> None:
        """End it, and what it started."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self._kill()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            self._errors += [line.strip() for line in lines if line.strip()]

    def _failed(self) -> BrowserError:
        self._process.wait(5)
        self._listener.join(5)
        told = self._errors[-1] if self._errors else f"it took longer than {DEADLINE_S:g} s"
        return BrowserError(f"{self.package} ended: {told}")

    def _kill(self) -> None:
        import os
        import signal

        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(5)


def page_address(folder: Path) -> str:
    """Address of the folder of MiniWoB's pages, as both packages want it."""
    return (folder / "miniwob").as_uri() + "/"


def _measurement(answer: Mapping[str, Any]) -> Measurement:
    resets, steps = answer["reset"], answer["step"]
    return Measurement(
        seconds=sum(resets) + sum(steps),
        counts={"steps": len(steps), "resets": len(resets)},
        latencies={"reset": resets, "step": steps},
        outcome=answer["episodes"],
    )
