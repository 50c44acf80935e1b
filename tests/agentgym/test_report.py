"""The report page: a whole run, a run in progress, hostile text, missing pieces, a real browser."""

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym.errors import ConfigError, UnknownNameError
from agentgym.images import encode_image
from agentgym.metrics import MetricsWriter
from agentgym.report import episode_html, write_report
from agentgym.store import TrajectoryStore
from agentgym.types import EndReason, Image, Source, Task, Trajectory, Turn

TASKS = ("click-test", "click-button", "enter-text", "choose-list", "login-user", "click-link")
HOSTILE = "</pre></style></title><script>document.title='owned'</script><img src=x onerror=owned>"


def screenshot(seed: int, step: int) -> Image:
    """A small page with a few coloured boxes on it."""
    rng = np.random.default_rng([seed, step])
    pixels = np.full((210, 160, 3), 255, np.uint8)
    pixels[:50] = (255, 255, 160)
    for _ in range(3):
        y, x = int(rng.integers(60, 180)), int(rng.integers(5, 110))
        pixels[y : y + 20, x : x + 45] = rng.integers(60, 220, 3)
    return encode_image(pixels)


def turn(seed: int, step: int, *, good: bool, last: bool, images: bool) -> Turn:
    text = "\n".join(f"[{i}] button 'Choice {i}'" for i in range(1, 5 + seed % 4))
    action = f'click("{1 + (seed + step) % 4}")' if good or step % 2 else ""
    return Turn(
        observation=f"Step {step if good else 1}\n{text}",
        prompt_ids=np.arange(20, dtype=np.int32),
        extends=step > 1,
        action_ids=np.arange(6 + step, dtype=np.int32),
        text=f"I see the button I need.\n{action}" if action else "the the the button the",
        logprobs=np.full(6 + step, -0.3, np.float32),
        image=screenshot(seed, step) if images else None,
        thought="I see the button I need." if action else "",
        action=action,
        action_error="" if action else 'no action found; write one call such as click("1")',
        parsed=bool(action),
        reward=float(good and last),
        terminated=last,
    )


def episode(
    phase: str, task: str, seed: int, *, success: bool | None, images: bool = True, **changes: Any
) -> Trajectory:
    turns = 2 if success else 5
    end = {True: EndReason.SUCCESS, False: EndReason.TURN_LIMIT, None: EndReason.ENV_ERROR}[success]
    values: dict[str, Any] = {
        "id": f"{phase}/{task}-{seed}",
        "task": Task(f"agentgym/miniwob.{task}-v0", seed, f"Click the button of choice {seed}."),
        "turns": tuple(
            turn(seed, i, good=bool(success), last=i == turns, images=images)
            for i in range(1, turns + 1)
        ),
        "end": end,
        "outcome": None if success is None else float(success),
        "policy": "smollm2-135m@0",
        "final_observation": "Done." if success else "Still there.",
        "final_image": screenshot(seed, 99) if images else None,
        "error": "Chromium was killed" if success is None else "",
        "metadata": {"phase": phase},
    }
    return Trajectory(**{**values, **changes})


def evaluation(trajectories: list[Trajectory], mean: float, half: float) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for t in trajectories:
        counts = tasks.setdefault(t.task.env_id, {"successes": 0, "episodes": 0, "unscored": 0})
        counts["episodes"] += t.outcome is not None
        counts["unscored"] += t.outcome is None
        counts["successes"] += t.success
    return {"tasks": tasks, "mean": mean, "low": mean - half, "high": mean + half}


def fake_run(folder: Path, *, images: bool = True) -> Path:
    """A finished run of six tasks: before, demonstrations, three iterations, after."""
    rng = np.random.default_rng(0)
    phases = {"eval-before": 0.1, "demonstrations": 1.0, "iteration-1": 0.4, "iteration-2": 0.6}
    phases |= {"iteration-3": 0.7, "eval-after": 0.8}
    episodes: dict[str, list[Trajectory]] = {}
    for phase, chance in phases.items():
        source = Source.EXPERT if phase == "demonstrations" else Source.POLICY
        episodes[phase] = [
            episode(phase, task, s, success=rng.random() < chance, images=images, source=source)
            for s in range(4 if phase == "demonstrations" else 12)
            for task in TASKS
        ]
    episodes["eval-after"].append(episode("eval-after", "click-test", 99, success=None))
    with TrajectoryStore(folder / "trajectories") as store:
        for phase in phases:
            store.append(episodes[phase])
    with MetricsWriter(folder) as metrics:
        step = 0
        for i, phase in enumerate(("warm-start", "update-1", "update-2", "update-3")):
            for _ in range(40):
                step += 1
                loss = 2.5 / (1 + step / 15) + rng.random() / 5
                row = {"step": step, "loss": loss, "grad_norm": 1 + rng.random()}
                row |= {"learning_rate": 1e-4, "token_accuracy": 1 - loss / 3}
                metrics.write({"phase": phase, "iteration": i, **row})
    summary = {
        "name": "demo",
        "finished": True,
        "phase": None,
        "evaluations": {
            "before": evaluation(episodes["eval-before"], 0.12, 0.06),
            "after": evaluation(episodes["eval-after"], 0.79, 0.08),
        },
        "seconds": {"eval-before": 61.2, "demonstrations": 40.0, "warm-start": 130.5}
        | {f"iteration-{i}": 75.0 for i in (1, 2, 3)}
        | {f"update-{i}": 90.0 for i in (1, 2, 3)}
        | {"eval-after": 48.0},
        "machine": "2 x x86_64, Python 3.11",
        "version": "0.1.0",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "recipe.toml").write_text(
        '# The demo.\nname = "demo"\niterations = 3\n\n[model]\nname = "smollm2-135m"\n\n'
        "[tasks]\nenv_ids = [\n"
        + "".join(f'    "agentgym/miniwob.{task}-v0",\n' for task in TASKS)
        + "]\n"
    )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fake_run(tmp_path_factory.mktemp("runs") / "demo")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text("utf-8")


class Outline(HTMLParser):
    """What a browser would make of a page, as far as the tests ask."""

    VOID = frozenset(("meta", "line", "circle", "path", "img", "br", "input", "link"))

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop(), f"</{tag}> closes nothing"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(k) == v for k, v in attributes.items())
        ]


def test_the_headline_says_what_was_learned(page: str) -> None:
    text = Outline(page).text
    assert "12 % before training 95% interval 6% to 18%" in text
    assert "79 % after training 95% interval 71% to 87%" in text
    assert "Mean success over 6 tasks rose by 67 points; the intervals do not overlap." in text
    assert "smollm2-135m" in text
    assert "12 min 55 s" in text  # 61.2 + 40 + 130.5 + 3 * (75 + 90) + 48 = 774.7 s
    assert "385 with" in text  # 6 tasks * (12 + 4 + 12 + 12 + 12 + 12) + 1


def test_every_task_has_its_rates_and_intervals(page: str, run: Path) -> None:
    outline = Outline(page)
    for task in TASKS:
        assert f"miniwob.{task}" in outline.text
    stored = [t for t in TrajectoryStore(run / "trajectories", read_only=True)]
    won = sum(t.success for t in stored if t.id.startswith("eval-after/login-user"))
    assert won == 10, "the numbers below are for 10 of 12"
    # Wilson, z = 1.96: centre (10 + z^2/2) / (12 + z^2) = 0.753, half width 0.200
    assert outline.all("span", **{"aria-label": "83%, interval 55% to 95%"})
    assert "success 10, turn limit 2" in outline.text
    assert "+ 1 unscored" in outline.text


def test_the_page_loads_nothing_and_allows_its_own_script_only(page: str) -> None:
    outline = Outline(page)
    for tag, attributes in outline.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "srcset", "action", "formaction"):
            assert name not in attributes, f"<{tag} {name}>"
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes), f"<{tag}> has a handler"
    assert set(re.findall(r"url\(([^)]{5})", page)) == {"data:"}
    (script,) = outline.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = outline.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert f"script-src 'sha256-{digest}'" in str(policy["content"])
    assert "default-src 'none'" in str(policy["content"])


def test_pictures_are_inside_and_each_stands_once(page: str) -> None:
    rules = re.findall(r"\.(i\d+)\{background-image:url\(data:image/png;base64,([^)]+)\)", page)
    assert len(rules) > 20
    assert len({data for _, data in rules}) == len(rules)
    shown = [str(a["class"]).split()[-1] for a in Outline(page).all("div", role="img")]
    assert set(shown) == {name for name, _ in rules}
    assert len(page) < 3_000_000


def test_a_failure_and_a_success_of_the_same_seed_stand_together(page: str) -> None:
    cards = [a for a in Outline(page).all("details") if "episode" in str(a["class"])]
    first, second = cards[:2]
    assert (first["data-task"], first["data-phase"], first["data-outcome"]) == (
        "miniwob.click-test",
        "Evaluation before",
        "failure",
    )
    assert (second["data-phase"], second["data-outcome"]) == ("Evaluation after", "success")
    ids = re.findall(r"· episode ([^<]+)</p>", page)
    assert ids[0].rsplit("/")[-1] == ids[1].rsplit("/")[-1], "the same task and seed"
    assert {"success", "failure", "unscored"} <= {str(a["data-outcome"]) for a in cards}
    assert "Demonstrations" in {a["data-phase"] for a in cards}


def test_what_did_not_parse_is_shown_as_written(page: str) -> None:
    text = Outline(page).text
    assert "Writes the the the button the Error no action found" in text
    assert 'Thinks I see the button I need. Does click("2")' in text
    assert "Sees the same text as in the turn before." in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = episode("eval-before", "click-test", 0, success=False)
    turns = tuple(
        dataclasses.replace(
            t,
            observation=HOSTILE,
            observation_error=HOSTILE,
            thought=HOSTILE,
            action=HOSTILE,
            action_error=HOSTILE,
            parsed=True,
        )
        for t in evil.turns
    )
    wrote = dataclasses.replace(turns[0], action="", text=HOSTILE + "\x00\x1b[31m\u202e")
    evil = dataclasses.replace(
        evil,
        id=HOSTILE,
        task=Task(HOSTILE, 1, HOSTILE),
        turns=(*turns, wrote),
        error=HOSTILE,
        policy=HOSTILE,
        final_observation=HOSTILE,
        final_error=HOSTILE,
        metadata={"phase": HOSTILE},
    )
    with TrajectoryStore(tmp_path / "trajectories") as store:
        store.append([evil, episode("eval-before", "click-test", 0, success=False)])
    with MetricsWriter(tmp_path) as metrics:
        for step in range(3):
            metrics.write({"phase": HOSTILE, "step": step, f"{HOSTILE}loss": 1.0})
    (tmp_path / "recipe.toml").write_text(f"# {HOSTILE}\nname = {json.dumps(HOSTILE)}\n")
    (tmp_path / "summary.json").write_text(
        json.dumps({"name": HOSTILE, "machine": HOSTILE, "seconds": {HOSTILE: 1.0}})
    )
    for page in (write_report(tmp_path).read_text("utf-8"), episode_html(tmp_path, HOSTILE)):
        outline = Outline(page)
        assert len(outline.scripts) == 1
        assert "owned" not in outline.scripts[0]
        assert not outline.all("img")
        assert "document.title='owned'" in outline.text, "it is there, as text"


def test_a_run_in_progress(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "trajectories") as store:
        store.append([episode("eval-before", "click-test", i, success=i > 2) for i in range(4)])
        (tmp_path / "recipe.toml").write_text('name = "young"\n')
        (tmp_path / "summary.json").write_text(
            json.dumps({"name": "young", "finished": False, "phase": "warm-start"})
        )
        text = Outline(write_report(tmp_path).read_text("utf-8")).text
    assert "This run is not finished. It is at: warm start." in text
    assert "There is no evaluation after training yet." in text
    assert "25 % before training" in text  # 1 of 4
    assert "No metrics have been written yet." not in text, "the chart by phase is there"


def test_only_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "new"\n')
    text = Outline(write_report(tmp_path).read_text("utf-8")).text
    for sentence in (
        "No evaluation has been finished yet.",
        "No evaluation has been stored yet.",
        "No metrics have been written yet.",
        "No episodes and no times have been stored yet.",
        "No episode has been stored yet.",
    ):
        assert sentence in text


def test_without_pictures_and_without_scores(tmp_path: Path) -> None:
    broken = [episode("eval-before", "enter-text", i, success=None, images=False) for i in (1, 2)]
    with TrajectoryStore(tmp_path / "trajectories") as store:
        store.append(broken)
    page = write_report(tmp_path).read_text("utf-8")
    outline = Outline(page)
    assert "background-image" not in page
    assert "? not scored" in outline.text
    assert "+ 2 unscored" in outline.text
    assert "Chromium was killed" in outline.text
    assert "It has no score." in outline.text
    assert "0%" not in [word for word in outline.text.split() if word == "0%"], "None is not 0"


def test_numbers_from_the_summary_where_the_store_is_gone(tmp_path: Path) -> None:
    counts = {"successes": 3, "episodes": 12, "unscored": 1}
    after = {"tasks": {"agentgym/a-v0": counts}, "mean": 0.25, "low": 0.1, "high": 0.5}
    (tmp_path / "summary.json").write_text(json.dumps({"evaluations": {"after": after}}))
    text = Outline(write_report(tmp_path).read_text("utf-8")).text
    assert "Mean success over 1 task. There is no evaluation before training." in text
    assert "25% 12 + 1 unscored" in text


def test_damaged_files_become_notes(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"name": ')
    (tmp_path / "recipe.toml").write_text("name = ")
    (tmp_path / "trajectories").mkdir()
    (tmp_path / "trajectories" / "index.json").write_text("nonsense")
    text = Outline(write_report(tmp_path).read_text("utf-8")).text
    assert "summary.json cannot be read" in text
    assert "recipe.toml cannot be read" in text
    assert "Not everything can be read" in text


def test_a_lost_picture_is_counted(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "trajectories") as store:
        store.append([episode("eval-before", "click-test", 1, success=True)])
    first, *_ = sorted((tmp_path / "trajectories" / "images").rglob("*.png"))
    first.unlink()
    text = Outline(write_report(tmp_path).read_text("utf-8")).text
    assert "1 screenshots could not be read from the store." in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        write_report(tmp_path / "gone")


def test_one_episode_in_full(run: Path) -> None:
    outline = Outline(episode_html(run, "eval-before/click-test-0"))
    assert len(outline.all("details", id="episode")) == 1
    assert "Turn 5" in outline.text
    assert not outline.all("form")
    with pytest.raises(UnknownNameError, match="Did you mean 'eval-before/click-test-"):
        episode_html(run, "eval-before/click-test-O")


def test_the_same_run_gives_the_same_page(run: Path, page: str) -> None:
    again = write_report(run).read_text("utf-8")
    written = re.compile(r"on \d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert written.sub("", again) == written.sub("", page)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(run: Path, browser: Any, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((run / "report.html").resolve().as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"

    tab.select_option("#outcome", "success")
    shown = tab.locator("details.episode:visible")
    assert 0 < shown.count() < tab.locator("details.episode").count()
    assert set(shown.evaluate_all("all => all.map(e => e.dataset.outcome)")) == {"success"}
    tab.fill("#words", "no such words anywhere")
    assert shown.count() == 0
    tab.click("button[type=reset]")
    hidden = tab.locator("details.episode[hidden]")
    hidden.first.wait_for(
        state="detached"
    )  # polls through the driver: the page's policy forbids eval

    chart = tab.locator("figure.chart").nth(1)
    chart.locator("svg").focus()
    tab.keyboard.press("Home")
    assert re.fullmatch(r"loss: [\d.]+ at 1", chart.locator("output").inner_text())
    chart.locator("svg").hover()
    assert " at " in chart.locator("output").inner_text()
    assert complaints == []
    tab.close()


@pytest.mark.browser
def test_hostile_text_does_nothing_in_a_browser(tmp_path: Path, browser: Any) -> None:
    evil = episode("eval-before", "click-test", 0, success=False)
    turns = tuple(dataclasses.replace(t, observation=HOSTILE, thought=HOSTILE) for t in evil.turns)
    with TrajectoryStore(tmp_path / "trajectories") as store:
        store.append([dataclasses.replace(evil, turns=turns, final_observation=HOSTILE)])
    tab = browser.new_page()
    tab.goto(write_report(tmp_path).resolve().as_uri())
    assert tab.title() != "owned"
    assert tab.locator("img").count() == 0
    assert tab.locator("pre", has_text="document.title='owned'").count() > 0
    tab.close()
