import importlib.machinery
import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import agentgym
from agentgym.environments.web.browsergym import (
    BROWSERGYM_TASKS,
    HEAVY,
    BrowserGymMiniWob,
    HighLevelActionSet,
    flatten_axtree_to_str,
    flatten_dom_to_str,
    overlay_som,
    prune_html,
    register_aliases,
)
from agentgym.environments.web.miniwob_tasks import TASKS
from agentgym.errors import BrowserError, ConfigError, EpisodeOverError, UnknownNameError

pytestmark = pytest.mark.browser
Make = Callable[..., BrowserGymMiniWob]
assert agentgym  # registers the ids
KEYS = {
    "chat_messages",
    "goal",
    "goal_object",
    "open_pages_urls",
    "open_pages_titles",
    "active_page_index",
    "url",
    "focused_element_bid",
    "last_action",
    "last_action_error",
    "elapsed_time",
    *HEAVY,
}


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[BrowserGymMiniWob] = []

    def new(task: str, **arguments: Any) -> BrowserGymMiniWob:
        made.append(BrowserGymMiniWob(task, **arguments))
        return made[-1]

    yield new
    for env in made:
        env.close()


def text_of(observation: dict[str, Any]) -> str:
    return flatten_axtree_to_str(observation["axtree_object"])


def bid_of(observation: dict[str, Any], start: str) -> str:
    """The bid of the first line of the tree that goes on like this."""
    lines = (line.strip() for line in text_of(observation).splitlines())
    return next(line[1:].split("]")[0] for line in lines if f"] {start}" in line)


# ---- the contract -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["choose-list", "drag-cube"])
def test_check_env(task: str) -> None:
    env = gym.make(f"agentgym/browsergym.miniwob.{task}-v0", disable_env_checker=True)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_ids() -> None:
    for task in TASKS:
        spec = gym.spec(f"agentgym/browsergym.miniwob.{task}-v0")
        assert spec.kwargs == {"task": task}
        assert json.loads(spec.to_json())["id"] == spec.id
    assert len(BROWSERGYM_TASKS) == 125


def test_observations_have_browsergyms_keys_and_types(make: Make) -> None:
    env = make("click-button")
    observation, info = env.reset(seed=3)
    assert set(observation) == KEYS
    assert observation in env.observation_space
    assert observation["goal"] == 'Click on the "submit" button.'
    assert observation["goal_object"] == ({"type": "text", "text": observation["goal"]},)
    assert [m["role"] for m in observation["chat_messages"]] == ["assistant", "user"]
    assert set(observation["chat_messages"][1]) == {"role", "timestamp", "message"}
    assert observation["open_pages_urls"] == (observation["url"],)
    assert observation["open_pages_titles"] == ("Click Button Task",)
    assert observation["active_page_index"].tolist() == [0]
    assert observation["screenshot"].shape == (321, 498, 3)
    assert observation["screenshot"].dtype == np.uint8
    assert (observation["last_action"], observation["last_action_error"]) == ("", "")
    assert observation["elapsed_time"].tolist() == [0.0]
    assert info == {
        "task_info": {
            "REWARD_GLOBAL": 0,
            "RAW_REWARD_GLOBAL": 0,
            "REWARD_REASON": None,
            "DONE_GLOBAL": False,
            "EPISODE_ID": 0,
            "TASK_READY": True,
        }
    }


def test_the_page_is_the_one_that_browsergym_shows(make: Make) -> None:
    env = make("click-button")  # the values are BrowserGym 0.14.3's for this seed
    observation, _ = env.reset(seed=3)
    assert observation["focused_element_bid"] == "8"
    assert text_of(observation).splitlines()[1:] == [
        "\tStaticText 'maecenas nunc diam'",
        "\tStaticText 'aenean molestie ornare'",
        "\tStaticText 'proin amet magna'",
        "\t[15] textbox ''",
        "\t[17] button 'cancel'",
        "\t[19] button 'submit'",
    ]
    properties = dict(observation["extra_element_properties"]["17"])
    left, top, width, height = properties.pop("bbox")
    assert (left, top, height) == pytest.approx((3, 159, 31.5), abs=3)  # the rest is the font's
    assert 60 < width < 110
    assert properties == {"visibility": 1.0, "clickable": True, "set_of_marks": True}
    assert prune_html(flatten_dom_to_str(observation["dom_object"])) == "\n".join(
        [
            '<head bid="1">',
            ' <title bid="2">',
            "  Click Button Task",
            " </title>",
            "</head>",
            '<div bid="9" id="wrap">',
            ' <div bid="10" id="query">',
            " </div>",
            ' <div bid="11" id="area">',
            "  maecenas nunc diam",
            "  aenean molestie ornare",
            "  proin amet magna",
            '  <input bid="15" style="width:57px;" type="text" value=""/>',
            '  <button bid="17" value="">',
            "   cancel",
            "  </button>",
            '  <button bid="19" value="">',
            "   submit",
            "  </button>",
            " </div>",
            "</div>",
            "",
        ]
    )
    assert observation["extra_element_properties"]["8"]["clickable"] is False  # the body
    marked = overlay_som(observation["screenshot"], observation["extra_element_properties"])
    assert (marked != observation["screenshot"]).any()


def test_equal_episodes_are_equal(make: Make) -> None:
    def played(env: BrowserGymMiniWob) -> list[Any]:
        env.reset(seed=7)
        seen = []
        for action in ("noop(500)", "click('13')", "mouse_click(60, 200)"):
            observation, reward, terminated, _, info = env.step(action)
            observation["screenshot"] = observation["screenshot"].tobytes()
            for key in ("active_page_index", "elapsed_time"):
                observation[key] = observation[key].tolist()
            seen += [observation, reward, terminated, info]
        return seen

    subsets = ["bid", "coord"]
    env = make("click-checkboxes", subsets=subsets)
    first = played(env)
    assert played(env) == first
    assert played(make("click-checkboxes", subsets=subsets)) == first


def test_what_is_not_asked_for_is_left_out(make: Make) -> None:
    env = make("click-button", observations=())
    observation, _ = env.reset(seed=3)
    assert set(observation) == KEYS - set(HEAVY)
    assert observation in env.observation_space
    assert observation["focused_element_bid"] == "8"
    observation, reward, terminated, _, _ = env.step("click('19')")
    assert (reward, terminated) == (1.0, True)
    for name in HEAVY:
        only = make("click-button", observations=[name])
        observation, _ = only.reset(seed=3)
        assert set(observation) & set(HEAVY) == {name}
        assert observation in only.observation_space


# ---- acting -----------------------------------------------------------------------------------


def test_an_episode(make: Make) -> None:
    env = make("login-user")
    observation, _ = env.reset(seed=3)
    user, password = observation["goal"].split('"')[1], observation["goal"].split('"')[3]
    fields = [p for p, e in observation["extra_element_properties"].items() if e["set_of_marks"]]
    action = f"fill('{fields[0]}', '{user}')\nfill('{fields[1]}', '{password}')"
    observation, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert observation["last_action"] == action
    assert observation["last_action_error"] == ""
    assert observation["focused_element_bid"] == fields[1]
    assert f"value='{user}'" in text_of(observation)
    assert observation["elapsed_time"].tolist() == [0.5]
    assert set(info) == {
        *("action_exec_start", "action_exec_timeout", "action_exec_stop", "task_info"),
        *("wait_for_page_loading_start", "wait_for_page_loading_stop"),
        *("validation_start", "validation_stop"),
        *("get_observation_start", "get_observation_stop"),
    }
    _, reward, terminated, _, info = env.step(f"click('{bid_of(observation, 'button')}')")
    assert (reward, terminated) == (1.0, True)
    assert info["success"] is True
    assert info["task_info"]["DONE_GLOBAL"] is True
    with pytest.raises(EpisodeOverError):
        env.step("noop()")


def test_random_actions_are_clicks_on_what_is_marked(make: Make) -> None:
    env = make("click-button")
    assert env.action_space.sample() == "noop()"  # nothing is known yet
    env.reset(seed=3)
    env.action_space.seed(0)
    sampled = {env.action_space.sample() for _ in range(50)}
    assert sampled == {"click('15')", "click('17')", "click('19')"}


def test_a_wrong_click_is_worth_nothing(make: Make) -> None:
    env = make("click-button")
    env.reset(seed=3)
    _, reward, terminated, _, info = env.step("click('17')")
    assert (reward, terminated) == (0.0, True)
    assert info["task_info"]["RAW_REWARD_GLOBAL"] == -1


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("", "ValueError: Received an empty action."),
        ("click('999')", 'ValueError: Could not find element with bid "999"'),
        ("click('a1')", 'ValueError: Could not find element with bid "a1"'),
        ("click(12)", "ValueError: expected a string, got 12"),
        ("xyz('1')", "NameError: Invalid action type 'xyz'."),
        (
            "fill('12', 'x')",
            "Error: Locator.fill: Error: Element is not an <input>, <textarea> or "
            "[contenteditable] element",
        ),
        (
            "select_option('13', 'a')",
            "Error: Locator.select_option: Error: Element is not a <select> element",
        ),
        ("press('15', 'Foo')", "TimeoutError: Locator.press: Timeout 500ms exceeded."),
        ("tab_focus(4)", "IndexError: list index out of range"),
        ("tab_focus(0)", ""),
        ("click('0')", ""),
        ("noop(1)", ""),
        ("scroll(0, 10)", ""),
        ("drag_and_drop('13', '999')", 'ValueError: Could not find element with bid "999"'),
        ("mouse_click(1, 1)", "NameError: Invalid action type 'mouse_click'."),
        ("upload_file('15', 'a')", "Error: upload_file: there is no file to choose here"),
        ("go_forward()", ""),
    ],
)
def test_errors(make: Make, action: str, error: str) -> None:
    env = make("click-button", observations=())  # the strings are BrowserGym 0.14.3's
    env.reset(seed=3)
    observation, reward, terminated, _, info = env.step(action)
    assert observation["last_action_error"].split("\n")[0] == error
    assert (reward, terminated) == (0.0, False)
    assert info["action_exec_timeout"] == (0.5 if error.startswith("TimeoutError") else 0.0)


def test_keys_and_points(make: Make) -> None:
    env = make("enter-text", subsets="miniwob_all")
    observation, _ = env.reset(seed=5)
    word = observation["goal"].split('"')[1]
    x, y, width, height = observation["extra_element_properties"][bid_of(observation, "textbox")][
        "bbox"
    ]
    assert env.size == (332, 214)
    env.step(f"mouse_click({x + width / 2}, {y + height / 2})")
    observation = env.step(f"keyboard_type('{word}')")[0]
    assert f"value='{word}'" in text_of(observation)
    x, y, width, height = observation["extra_element_properties"][bid_of(observation, "button")][
        "bbox"
    ]
    env.step(f"mouse_down({x + 5}, {y + 5})")
    _, reward, terminated, _, _ = env.step(f"mouse_up({x + 5}, {y + 5})")
    assert (reward, terminated) == (1.0, True)


def test_hostile_text_is_told_not_raised(make: Make) -> None:
    everything = HighLevelActionSet(["chat", "infeas", "bid", "coord", "nav", "tab"])
    env = make("enter-text", observations=(), action_mapping=everything.to_python_code)
    env.reset(seed=3)
    hostile: list[Any] = ["\ud800", "\x00", "a" * 200_000, "click(" * 9000, 5, None]
    hostile += ["mouse_move(1e300, 1)", "mouse_down(-1e30, 0) mouse_up(1e30, 0)", "noop(1e300)"]
    hostile += ["scroll(1e300, -1e300)", "scroll_at(1e20, 0, 5, 5)", "keyboard_type('\ud800')"]
    hostile += ["noop(-5)", "mouse_drag_and_drop(1e30, 0, 1, 1)", "tab_focus(10**30)"]
    for action in hostile:
        observation, reward, terminated, _, _ = env.step(action)
        assert observation in env.observation_space
        assert (reward, terminated) == (0.0, False)


def test_a_button_that_is_held_is_not_held_in_the_next_episode(make: Make) -> None:
    env = make("click-button", subsets="coord", observations=())
    env.reset(seed=3)
    env.step("mouse_down(10, 100)")
    page = env.page
    env.reset(seed=3)
    assert env.page is not page
    assert env.step("mouse_click(49, 206)")[1] == 1.0  # "submit"


def test_talking(make: Make) -> None:
    env = make("click-button", observations=())
    env.reset(seed=3)
    observation, _, terminated, _, _ = env.step("send_msg_to_user('Which one?')")
    assert terminated is False
    assert observation["chat_messages"][-1]["message"] == "Which one?"
    observation, reward, terminated, _, _ = env.step("report_infeasible('no such button')")
    assert (reward, terminated) == (0.0, True)
    assert observation["chat_messages"][-1]["role"] == "infeasible"
    env = make("click-button", observations=(), terminate_on_infeasible=False)
    env.reset(seed=3)
    assert env.step("report_infeasible('no such button')")[2] is False


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("goto('http://localhost:1/')", "invalid url, terminating task"),
        ("goto('file:///etc/passwd')", "invalid url, terminating task"),
        ("go_back()", "invalid url, terminating task"),
        ("new_tab()", "invalid page, terminating task"),
        ("tab_close()", "invalid page, terminating task"),
    ],
)
def test_leaving_ends_the_episode(make: Make, action: str, why: str) -> None:
    env = make("click-test")
    env.reset(seed=0)
    observation, reward, terminated, _, info = env.step(action)
    assert (reward, terminated) == (0.0, True)
    assert info["task_info"] == {"error": why}
    assert observation in env.observation_space
    assert env.reset(seed=0)[0]["goal"]


def test_a_page_that_leaves_by_itself(make: Make) -> None:
    env = make("click-test")
    env.reset(seed=0)
    page = env.page
    assert page is not None
    leave = "document.body.innerHTML = '<a href=about:blank>x</a>'"
    page.run(page.evaluate(leave))
    observation = env.step("noop()")[0]
    observation, reward, terminated, _, info = env.step(f"click('{bid_of(observation, 'link')}')")
    while not terminated:  # Chromium goes a little later
        observation, reward, terminated, _, info = env.step("noop()")
    assert (reward, terminated) == (0.0, True)
    assert info["task_info"] == {"error": "invalid url, terminating task"}
    assert observation["url"] == "about:blank"
    assert text_of(observation) == ""
    assert flatten_dom_to_str(observation["dom_object"]) == ""


def test_a_page_that_leaves_in_the_middle_of_a_step(make: Make) -> None:
    env = make("click-test")
    for delay in (1, 250, 500):
        env.reset(seed=0)
        assert env.page is not None
        leave = f"void setTimeout(() => location.href = 'about:blank', {delay})"
        env.page.run(env.page.evaluate(leave))
        terminated = False
        while not terminated:
            observation, reward, terminated, _, info = env.step("noop(3000)")
        assert reward == 0.0
        assert info["task_info"] == {"error": "invalid url, terminating task"}
        assert observation in env.observation_space


def test_a_crash_is_no_reward(make: Make) -> None:
    env = make("click-test")
    env.reset(seed=0)
    assert env.page is not None
    env.page.give_up("as if it had crashed")
    with pytest.raises(BrowserError, match="as if it had crashed"):
        env.step("noop()")
    assert env.reset(seed=0)[0]["goal"]


# ---- arguments --------------------------------------------------------------------------------


def test_mappings(make: Make) -> None:
    def shout(action: str) -> str:
        if action == "?":
            raise RuntimeError("no")
        return action.lower()

    env = make("click-button", observations=(), action_mapping=shout)
    env.reset(seed=3)
    assert env.step("?")[0]["last_action_error"] == "RuntimeError: no"
    assert env.step("CLICK('19')")[1] == 1.0
    plain = make("click-button", observations=(), action_mapping=None)
    plain.reset(seed=3)
    assert plain.step("mouse_move(5, 5)")[0]["last_action_error"] == ""
    single = make("click-button", observations=(), multiaction=False)
    single.reset(seed=3)
    assert "multi-action" in single.step("noop() noop()")[0]["last_action_error"]


def test_wrong_arguments_are_refused() -> None:
    for arguments, message in [
        ({"tags_to_mark": "some"}, "tags_to_mark"),
        ({"task_kwargs": {"color": 1}}, "color"),
        ({"wait_for_user_message": True}, "wait_for_user_message must be off"),
        ({"speed": 1}, "unknown argument 'speed'"),
        ({"render_mode": "human"}, "render_mode"),
        ({"subsets": "bid", "action_mapping": str}, "give one"),
    ]:
        with pytest.raises(ConfigError, match=message):
            BrowserGymMiniWob("click-test", **arguments)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="click-test"):
        BrowserGymMiniWob("click-tset")
    with pytest.raises(UnknownNameError, match="screenshot"):
        BrowserGymMiniWob("click-test", observations=["screenshots"])
    assert BrowserGymMiniWob("click-test", headless=True, slow_mo=100, record_video_dir=None)


def test_other_viewports_and_pictures(make: Make) -> None:
    env = make(
        "click-test",
        viewport={"width": 200, "height": 220},
        render_mode="rgb_array",
        task_kwargs={"episode_max_time": 500},
        tags_to_mark="all",
    )
    with pytest.raises(EpisodeOverError):
        env.render()
    observation, _ = env.reset(seed=0)
    assert observation["screenshot"].shape == (330, 300, 3)
    assert (env.render() == observation["screenshot"]).all()
    assert env.step("noop(2000)")[2] is True  # the page's own time is up


# ---- BrowserGym's name --------------------------------------------------------------------------


def test_an_agent_of_browsergyms_runs_with_another_import(aliases: None) -> None:
    # Written as for BrowserGym; there the names come from browsergym.core and browsergym.utils.
    actions = HighLevelActionSet(["bid", "chat"], multiaction=False)
    env = gym.make("browsergym/miniwob.click-button", action_mapping=actions.to_python_code)
    prompts = []
    try:
        observation, _ = env.reset(seed=3)
        for _ in range(3):
            tree = flatten_axtree_to_str(
                observation["axtree_object"],
                extra_properties=observation["extra_element_properties"],
                with_visible=True,
                with_clickable=True,
                filter_visible_only=True,
            )
            prompts.append(f"{observation['goal']}\n{tree}\n{actions.describe()}")
            button = next(line for line in tree.splitlines() if "button 'submit'" in line)
            answer = f"I press it.\nclick('{button.strip()[1:].split(']')[0]}')"
            observation, reward, terminated, truncated, _ = env.step(answer)
            if terminated or truncated:
                break
    finally:
        env.close()
    assert (len(prompts), reward, terminated) == (1, 1.0, True)
    assert "[19] button 'submit', clickable, visible" in prompts[0]
    assert observation["last_action"] == answer


def test_aliases(aliases: None) -> None:
    register_aliases()  # again
    mine = [name for name in gym.registry if name.startswith("browsergym/")]
    assert len(mine) == 125 + 1 + 812
    assert gym.spec("browsergym/miniwob.click-test").max_episode_steps is None


def test_browsergym_itself_is_not_shadowed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.machinery.ModuleSpec("browsergym", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(ConfigError, match="browsergym is installed"):
        register_aliases()
    assert not any(name.startswith("browsergym/") for name in gym.registry)
