import json
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import agentgym
from agentgym.environments.web import miniwob
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.miniwob import MiniWobEnv
from agentgym.environments.web.miniwob_tasks import RESTARTABLE, TASKS
from agentgym.environments.web.page import image_of
from agentgym.errors import BrowserError, ConfigError, EpisodeOverError, UnknownNameError

pytestmark = pytest.mark.browser
Make = Callable[..., MiniWobEnv]
assert agentgym  # registers the ids


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[MiniWobEnv] = []

    def new(task: str, **arguments: Any) -> MiniWobEnv:
        made.append(MiniWobEnv(task, **arguments))
        return made[-1]

    yield new
    for env in made:
        env.close()


def find(env: MiniWobEnv, role: str, name: str | None = None) -> str:
    """The id of the first such element."""
    return env.view.find(role, name)[0].id


# ---- the contract -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_check_env(task: str) -> None:
    env = gym.make(f"agentgym/miniwob.{task}-v0", disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("task", TASKS)
def test_a_random_episode_runs_to_its_end(task: str) -> None:
    env = gym.make(f"agentgym/miniwob.{task}-v0", disable_env_checker=True)
    env.action_space.seed(7)
    env.reset(seed=7)
    over = steps = 0
    while not over:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        steps += 1
        over = terminated or truncated
        assert info["parsed"], info
        assert observation["goal"]
        assert -1.0 <= float(reward) <= 1.0
        assert reward == (info["raw_reward"] if terminated else 0.0)
        assert ("success" in info) is terminated
    assert steps <= 10
    env.close()


RAW = """(() => {
  Math.seedrandom(%d); core.EPISODE_MAX_TIME = 1e9; core.startEpisodeReal();
})()"""
CLICKED = (  # pages without timers, so that events alone decide
    *("click-test-2", "click-button", "click-checkboxes", "click-dialog-2", "click-shape"),
    *("click-color", "grid-coordinate", "identify-shape", "bisect-angle", "circle-center"),
    *("tic-tac-toe", "count-sides", "navigate-tree"),
)


@pytest.mark.parametrize("task", CLICKED)
def test_rewards_are_the_pages_own_for_the_same_seed_and_events(make: Make, task: str) -> None:
    """Against the page as it comes, without our clock and styles, under Playwright's mouse."""
    env, rng = make(task), np.random.default_rng(3)
    size = (miniwob.WIDTH, miniwob.HEIGHT)
    raw = Browser.shared().page(size=size, offline=True)
    ended = []
    for seed in range(4):
        _, info = env.reset(seed=seed)
        raw.run(raw.navigate(env._url))
        raw.run(raw.evaluate(RAW % info["page_seed"]))
        for _ in range(25):
            x, y = int(rng.integers(160)), int(rng.integers(50, 210))
            _, reward, terminated, _, info = env.step(f"click_at({x}, {y})")
            raw.run(raw.playwright.mouse.click(x, y))
            state = "[WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL]"
            assert [terminated, info["raw_reward"]] == raw.run(raw.evaluate(state)), (seed, x, y)
            if terminated:
                assert reward == info["raw_reward"]
                ended.append(reward)
                break
    raw.close()
    assert ended


@pytest.mark.parametrize("arguments", [{"images": True}, {"action_syntax": "json"}])
def test_check_env_with_other_arguments(arguments: dict[str, Any]) -> None:
    env = gym.make("agentgym/miniwob.click-shape-v0", disable_env_checker=True, **arguments)
    check_env(env.unwrapped)
    env.close()


def test_the_id_limits_the_steps() -> None:
    env = gym.make("agentgym/miniwob.click-test-v0")
    env.reset(seed=0)
    ends = [env.step("wait()")[3] for _ in range(10)]
    env.close()
    assert ends == [False] * 9 + [True]


def test_an_episode_from_goal_to_reward(make: Make) -> None:
    env = make("login-user")
    observation, info = env.reset(seed=3)
    assert observation["goal"].startswith('Enter the username "kenda"')
    assert observation["text"] == (
        '[1] textbox "Username"\n[2] textbox "Password"\n[3] button "Login"'
    )
    assert set(info) == {"page_seed"}
    user, password = env.goal.split('"')[1], env.goal.split('"')[3]
    observation, reward, terminated, truncated, info = env.step(
        f'The name first.\ntype("1", "{user}")'
    )
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info == {
        "action": f'type("1", "{user}")',
        "action_error": "",
        "parsed": True,
        "thought": "The name first.",
        "raw_reward": 0.0,
        "reason": "",
    }
    assert f'[1] textbox "Username" value="{user}" focused' in observation["text"]
    env.step(f'type("2", "{password}")')
    _, reward, terminated, _, info = env.step('click("3")')
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    json.dumps(info)
    with pytest.raises(EpisodeOverError, match=r"call reset\(\)"):
        env.step('click("3")')


def test_a_step_before_reset_is_refused(make: Make) -> None:
    with pytest.raises(EpisodeOverError):
        make("click-test").step('click("1")')


# ---- what the page would have done ------------------------------------------------------------


def test_seeds_are_browsergyms(make: Make) -> None:
    env = make("enter-text")
    observation, info = env.reset(seed=7)
    assert info["page_seed"] == np.random.RandomState(7).randint(0, 1_000_000)
    again, _ = env.reset(options={"page_seed": info["page_seed"]})
    assert again["goal"] == observation["goal"]
    assert env._page is not None
    drawn = f"(Math.seedrandom({info['page_seed']}), genProblem(), core.getUtterance())"
    assert env._page.run(env._page.evaluate(drawn)) == observation["goal"]


def test_unseeded_resets_go_on_from_the_seed(make: Make) -> None:
    env = make("enter-text")
    first = [env.reset(seed=5)[0]["goal"], env.reset()[0]["goal"], env.reset()[0]["goal"]]
    second = [env.reset(seed=5)[0]["goal"], env.reset()[0]["goal"], env.reset()[0]["goal"]]
    assert first == second
    assert len(set(first)) == 3


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("raw", 0.5, -1.0),
        ("binary", -1.0, -1.0),
        ("thresholded", 1.0, -1.0),
        ("browsergym", 1.0, 0.0),
    ],
)
def test_reward_conventions(make: Make, kind: Any, good: float, bad: float) -> None:
    env = make("click-test", reward=kind, threshold=0.5)
    for raw, expected in ((0.5, good), (-1.0, bad)):
        env.reset(seed=0)
        assert env._page is not None
        env._page.run(env._page.evaluate(f"core.endEpisode({raw}, false, 'because')"))
        _, reward, terminated, _, info = env.step("wait()")
        assert (reward, terminated) == (expected, True)
        assert (info["raw_reward"], info["reason"]) == (raw, "because")
        assert info["success"] is (raw > 0)


def test_the_original_reward_shrinks_with_virtual_time(make: Make) -> None:
    env = make("click-test", reward="original")
    env.reset(seed=0)
    for _ in range(3):
        env.step("wait()")
    _, reward, _, _, info = env.step('click("1")')
    assert reward == pytest.approx(0.7)  # 3 s of the page's 10 s are over
    assert info["raw_reward"] == 1.0
    env.reset(seed=0)
    rewards = [env.step("wait()")[1] for _ in range(10)]
    assert rewards == [0.0] * 9 + [-1.0]


def test_other_rewards_know_no_time_limit(make: Make) -> None:
    env = make("click-test")
    env.reset(seed=0)
    for _ in range(12):
        assert not env.step("wait(10)")[2]
    assert env.step('click("1")')[1] == 1.0


def test_partial_rewards_are_the_pages_own(make: Make) -> None:
    env = make("click-checkboxes-soft")
    env.reset(seed=0)
    env.step(f'click("{find(env, "button", "Submit")}")')
    assert env._page is not None
    raw, done = env._page.run(env._page.evaluate("[WOB_RAW_REWARD_GLOBAL, WOB_DONE_GLOBAL]"))
    assert done
    env.reset(seed=0)
    _, reward, *_ = env.step(f'click("{find(env, "button", "Submit")}")')
    assert reward == raw


def test_data_modes_have_their_own_words(make: Make) -> None:
    train, test = (
        make("click-test-transfer", data_mode="train"),
        make("click-test-transfer", data_mode="test"),
    )
    goals = [{env.reset(seed=s)[0]["goal"] for s in range(4)} for env in (train, test)]
    assert goals[0] != goals[1]


# ---- the same every time ----------------------------------------------------------------------

TRANSCRIPT = """
import hashlib, json, sys
from agentgym.environments.web.miniwob import MiniWobEnv
out = {}
for task in sys.argv[1:]:
    env = MiniWobEnv(task, images=task == "click-pie")
    log = []
    for seed in (0, 1):
        log.append(repr(env.reset(seed=seed)))
        env.action_space.seed(seed)
        for _ in range(5):
            *result, info = env.step(env.action_space.sample())
            result[0]["image"] = result[0].get("image", b"") if True else b""
            log.append(repr(result) + json.dumps(info, sort_keys=True) + repr(env.view.elements))
            log[-1] += hashlib.sha256(bytes(result[0]["image"])).hexdigest()
            if result[2]:
                break
    env.close()
    out[task] = hashlib.sha256("".join(log).encode()).hexdigest()
print(json.dumps(out))
"""
SAMPLE = (
    "chase-circle", "moving-items", "click-pie", "simon-says", "stock-market", "drag-cube",
    "hover-shape", "terminal", "book-flight", "choose-date", "click-collapsible-2", "social-media",
    "search-engine", "email-inbox", "use-autocomplete", "enter-text",
)  # fmt: skip


def test_two_processes_write_the_same_transcript() -> None:
    def transcripts(hash_seed: str) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", TRANSCRIPT, *SAMPLE],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        result: dict[str, str] = json.loads(done.stdout)
        return result

    assert transcripts("1") == transcripts("2")


def test_time_stands_still_while_the_agent_thinks(make: Make) -> None:
    env = make("stock-market")
    env.reset(seed=1)
    env.step("wait(0.5)")
    price = [e.name for e in env.view if "$" in e.name]
    time.sleep(0.5)
    assert env._page is not None
    assert [e.name for e in env._page.run(env._page.look()) if "$" in e.name] == price
    env.step("wait()")
    assert [e.name for e in env.view if "$" in e.name] != price


def transcript(env: MiniWobEnv, seed: int, steps: int) -> list[Any]:
    """What an episode of random actions shows."""
    log: list[Any] = [env.reset(seed=seed), env.view]
    env.action_space.seed(seed)
    for _ in range(steps):
        log += [env.step(env.action_space.sample()), env.view]
        if log[-2][2]:
            break
    return log


@pytest.mark.parametrize("task", sorted(RESTARTABLE))
def test_a_restarted_page_is_as_good_as_new(
    make: Make, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    env = make(task)
    for seed in (1, 2):
        transcript(env, seed, 4)
    restarted = transcript(env, 3, 3)
    assert env.diagnostics["restarted"]
    monkeypatch.setattr(miniwob, "RESTARTABLE", frozenset())
    assert restarted == transcript(env, 3, 3)
    assert not env.diagnostics["restarted"]


@pytest.mark.parametrize("task", ["search-engine", "scroll-text", "use-autocomplete"])
def test_pages_that_leak_are_loaded_anew(make: Make, task: str) -> None:
    used, fresh = make(task), make(task)
    transcript(used, 1, 4)
    assert transcript(used, 3, 2) == transcript(fresh, 3, 2)


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "click",
        'click("',
        "rm -rf /",
        "\ud800",
        "\x00",
        "x" * 100_000,
        "click()",
        "(" * 5000,
    ],
)
def test_text_that_is_no_action_is_told(make: Make, text: str) -> None:
    env = make("click-test")
    env.reset(seed=0)
    observation, reward, terminated, _, info = env.step(text)
    assert (reward, terminated, info["parsed"], info["action"]) == (0.0, False, False, "")
    assert observation["error"] == info["action_error"] != ""
    assert observation in env.observation_space
    assert env.step('click("1")')[1] == 1.0


def test_a_stale_element_is_told(make: Make) -> None:
    env = make("click-test")
    env.reset(seed=0)
    observation, _, terminated, _, info = env.step('click("17")')
    assert not terminated
    assert observation["error"] == 'There is no element "17". Elements: 1.'
    assert info["parsed"] is True


def test_hostile_text_stays_text(make: Make) -> None:
    env = make("enter-text")
    env.reset(seed=0)
    hostile = '"); alert(1); </script><b>\\u2028 [9] button "Pay" é🙂'
    observation, *_ = env.step(f"type('1', {hostile!r})")
    assert observation["error"] == ""
    assert env.view.elements[0].value == hostile
    assert len(observation["text"].splitlines()) == 2


def test_leaving_the_page_is_the_agents_failure(make: Make) -> None:
    env = make("click-test")
    env.reset(seed=0)
    assert env._page is not None
    env._page.run(
        env._page.evaluate("document.querySelector('button').onclick = () => location.reload(), 1")
    )
    env._page.run(env._page.evaluate("d3.select('button').on('click', null), 1"))
    _, reward, terminated, _, info = env.step('click("1")')
    if not terminated:  # a navigation may begin a little after the click
        _, reward, terminated, _, info = env.step("wait()")
    assert (reward, terminated, info["success"]) == (-1.0, True, False)
    assert info["reason"] == "left the page"
    assert env.reset(seed=0)[0]["text"] == '[1] button "Click Me!"'


def test_wrong_arguments_are_named(make: Make) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'click-button'"):
        make("click-buton")
    with pytest.raises(UnknownNameError, match="Did you mean 'click'"):
        make("click-test", actions=("clik",))
    for arguments in (
        {"reward": "rwa"},
        {"action_syntax": "xml"},
        {"data_mode": "dev"},
        {"max_chars": 1},
        {"render_mode": "human"},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(arguments))} must be"):
            make("click-test", **arguments)
    env = make("click-test")
    with pytest.raises(ConfigError, match="'sede'"):
        env.reset(options={"sede": 1})
    with pytest.raises(ConfigError, match="page_seed must be"):
        env.reset(options={"page_seed": -1})
    env.reset(seed=0, options={})


# ---- failures of the browser, and company -----------------------------------------------------


def test_a_killed_chromium_is_the_environments_failure(make: Make) -> None:
    env, other = make("click-test"), make("enter-text")
    env.reset(seed=0)
    other.reset(seed=0)
    assert env._page is not None
    env._page.browser.kill()
    started = time.monotonic()
    for each in (env, other):
        with pytest.raises(BrowserError):
            each.step('click("1")')
        with pytest.raises(EpisodeOverError):
            each.step('click("1")')
    assert time.monotonic() - started < 15
    env.reset(seed=0)
    assert env.step('click("1")')[1] == 1.0
    other.reset(seed=0)
    assert other.step('click("1")')[4]["action_error"] == ""


def test_two_threads_two_episodes(make: Make) -> None:
    results: dict[str, list[float]] = {}

    def work(task: str) -> None:
        env = make(task)
        results[task] = []
        for seed in range(4):
            env.reset(seed=seed)
            results[task].append(env.step('click("1")')[1])

    threads = [threading.Thread(target=work, args=(t,)) for t in ("click-test", "focus-text")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"click-test": [1.0] * 4, "focus-text": [1.0] * 4}


# ---- what is seen -----------------------------------------------------------------------------


def test_pictures_show_the_page_without_its_frame(make: Make) -> None:
    env = make("click-color", images=True, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (214, 332, 3)
    assert np.array_equal(observation["image"], env.render())
    box = env.view.elements[0].box
    x, y = int(box[0] + box[2] / 2), int(box[1] + box[3] / 2)
    assert observation["image"][y, x].tolist() != [255, 255, 255]
    assert len(np.unique(observation["image"][:, 170:].reshape(-1, 3), axis=0)) == 1


def test_ansi_rendering_is_goal_and_text(make: Make) -> None:
    env = make("click-test", render_mode="ansi")
    with pytest.raises(EpisodeOverError):
        env.render()
    observation, _ = env.reset(seed=0)
    assert env.render() == f"{observation['goal']}\n{observation['text']}"


def test_a_subset_of_actions(make: Make) -> None:
    env = make("click-test", actions=("click",), coordinates=True)
    observation, _ = env.reset(seed=0)
    assert "@" in observation["text"]
    assert list(env.action_set) == ["click"]
    assert "Unknown action 'wait'" in env.step("wait()")[0]["error"]
    assert env.action_space.sample() == 'click("1")'


def test_playwright_may_look_at_the_page_between_steps(make: Make) -> None:
    env = make("click-test")
    assert env.page is None
    env.reset(seed=0)
    page = env.page
    assert page is not None
    assert page.run(page.playwright.title()) == "Click Test Task"
    assert page.run(page.playwright.locator("#subbtn").text_content()) == "Click Me!"
    png = page.run(page.playwright.screenshot())  # these two wait for frames
    ours = page.run(page.photograph())
    assert np.array_equal(image_of(png, page.size), image_of(ours, page.size))
    page.run(page.playwright.locator("#subbtn").click())
    assert env.step("wait(0)")[1] == 1.0


@pytest.mark.parametrize("syntax", ["python", "json", "bracket"])
def test_an_oracle_solves_in_every_syntax(make: Make, syntax: str) -> None:
    env = make("click-test", action_syntax=syntax)
    env.reset(seed=0)
    assert env.has_oracle
    assert env.step(env.oracle_action())[1] == 1.0
    with pytest.raises(EpisodeOverError):
        env.oracle_action()


def test_oracle_thoughts_can_be_left_out(make: Make) -> None:
    env = make("click-test", oracle_thoughts=False)
    env.reset(seed=0)
    assert env.oracle_action() == 'click("1")'


def test_a_task_without_oracle_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgym.environments.web.oracles.ORACLES", {})
    env = make("click-test")
    env.reset(seed=0)
    assert not env.has_oracle
    with pytest.raises(NotImplementedError, match="no oracle"):
        env.oracle_action()


# ---- other ways to look and to speak -------------------------------------------------------------


def bid(text: str, name: str) -> str:
    """The id in brackets before what has this name."""
    found = re.search(rf"\[(\w+)\] \w+ '{name}'", text)
    assert found is not None, text
    return found[1]


@pytest.mark.parametrize(
    ("dialect", "typed", "clicked"),
    [
        ("browsergym", "fill('{0}', '{1}')", "click('{0}')"),
        ("webarena", "type [{0}] [{1}] [0]", "click [{0}]"),
    ],
)
def test_other_dialects_solve_pages(make: Make, dialect: str, typed: str, clicked: str) -> None:
    env = make("enter-text", dialect=dialect, images=True)
    for seed in (1, 2):  # the second time without a page load
        observation, _ = env.reset(seed=seed)
        (word,) = re.findall('"(.*?)"', observation["goal"])
        ids = re.findall(r"\[(\w+)\] textbox", observation["text"])
        observation, *_, info = env.step("Typing.\n" + typed.format(ids[0], word))
        if dialect == "webarena":  # which has no room for thoughts
            assert info["action_error"].startswith("There is no action")
            observation, *_, info = env.step(typed.format(ids[0], word))
        assert (info["action_error"], info["parsed"]) == ("", True)
        assert word in observation["text"]
        *_, terminated, _, info = env.step(clicked.format(bid(observation["text"], "Submit")))
        assert (terminated, info["raw_reward"], info["success"]) == (True, 1.0, True)
    assert not env.has_oracle
    with pytest.raises(NotImplementedError, match="no oracle for what is spoken here"):
        env.oracle_action()


def test_webrls_dialect_solves_a_page(make: Make) -> None:
    env = make("click-button", dialect="webrl")
    observation, _ = env.reset(seed=3)
    (name,) = re.findall('"(.*?)"', observation["goal"])
    found = re.search(rf'<button id="(\d+)"[^>]*> {name} ', observation["text"])
    assert found is not None, observation["text"]
    *_, terminated, _, info = env.step(f'do(action="Click", element="{found[1]}")')
    assert (terminated, info["raw_reward"]) == (True, 1.0)


@pytest.mark.parametrize(
    ("dialect", "last", "elsewhere", "nothing"),
    [
        ("browsergym", "report_infeasible('no')", "goto('http://a.com')", "fly()"),
        ("webarena", "stop [done]", "goto [http://a.com]", "fly [1]"),
        ("webrl", 'exit(message="done")', "go_backward()", "fly()"),
    ],
)
def test_last_words_end_an_episode_that_is_not_solved(
    make: Make, dialect: str, last: str, elsewhere: str, nothing: str
) -> None:
    env = make("click-test", dialect=dialect)
    env.reset(seed=0)
    observation, *_, terminated, _, info = env.step(elsewhere)
    assert "There is only this page; it cannot do go" in observation["error"]
    observation, *_, info = env.step(nothing)
    assert observation["error"]
    assert not info["parsed"]
    _, reward, terminated, _, info = env.step(last)
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["reason"] == "ended by the agent"
    with pytest.raises(EpisodeOverError):
        env.step(last)
    observation, _ = env.reset(seed=0)
    assert "Click Me" in observation["text"]


@pytest.mark.parametrize("dialect", ["browsergym", "webarena", "webrl"])
def test_gymnasiums_own_check_in_each_dialect(make: Make, dialect: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make("click-tab-2", dialect=dialect), skip_render_check=True)


def test_what_is_shown_can_be_chosen(make: Make) -> None:
    def seen(task: str = "scroll-text-2", **options: Any) -> str:
        return str(make(task, **options).reset(seed=0)[0]["text"])

    assert re.search(r'button "Submit" @\d+,\d+,\d+,\d+$', seen(boxes=True), re.M)
    assert "offscreen" in seen("social-media")
    assert "offscreen" not in seen("social-media", viewport_only=True)
    assert seen(head=["url"]).startswith("URL: file://")
    words = seen("social-media", max_tokens=100, count_tokens=lambda text: len(text.split()))
    assert len(words.split()) <= 100 < len(seen("social-media").split())
    env = make("click-test", difference=True)
    env.reset(seed=0)
    assert env.step("wait(0)")[0]["text"] == "nothing changed"


def test_marks_are_drawn_on_the_picture(make: Make) -> None:
    plain = make("click-test", images=True).reset(seed=0)[0]
    marked = make("click-test", images=True, marks=True).reset(seed=0)[0]
    assert (plain["image"] != marked["image"]).any()
    assert plain["text"] == marked["text"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"marks": True}, ConfigError, "marks needs images=True"),
        ({"dialect": "webarenas"}, UnknownNameError, "Did you mean 'webarena'"),
        ({"dialect": "webarena", "actions": ["click"]}, ConfigError, "cannot be chosen"),
        ({"box": True}, UnknownNameError, "Did you mean 'boxes'"),
    ],
)
def test_wrong_choices_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MiniWobEnv("click-test", **arguments)
