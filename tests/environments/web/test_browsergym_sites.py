import json
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.web.axtree import flatten_axtree_to_str
from agentgym.environments.web.browsergym import HighLevelActionSet
from agentgym.environments.web.browsergym_sites import BrowserGymOpenEnded, BrowserGymWebArena
from agentgym.environments.web.marks import overlay_som
from agentgym.environments.web.markup import flatten_dom_to_str
from agentgym.errors import ConfigError, EpisodeOverError, UnknownNameError

Serve = Callable[[Mapping[str, Any]], str]
Make = Callable[..., Any]
SHOP = """<title>Shop</title><a href=/b>B</a> <a href=/b target=_blank>Pop</a>
    <button onclick="document.cookie = 'cart=tea'">Buy</button><input aria-label=Name autofocus>"""


@pytest.fixture
def make(patient: None) -> Iterator[Make]:
    made: list[Any] = []

    def start(env_id: str, **arguments: Any) -> Any:
        env = gym.make(f"agentgym/browsergym.{env_id}-v0", disable_env_checker=True, **arguments)
        made.append(env.unwrapped)
        return made[-1]

    yield start
    for env in made:
        env.close()


def bid(observation: Mapping[str, Any], name: str) -> str:
    text = flatten_axtree_to_str(observation["axtree_object"])
    (line,) = [line for line in text.splitlines() if f"'{name}'" in line]
    return line.partition("[")[2].partition("]")[0]


@pytest.mark.browser
def test_an_agent_of_browsergyms_finds_what_it_knows(serve: Serve, make: Make) -> None:
    home = serve({"/": SHOP, "/b": "<title>Bee</title><p>Bee</p>"})
    env = make("openended", task_kwargs={"start_url": home, "goal": "Find B."})
    observation, info = env.reset(seed=0)
    assert info == {"task_info": {}}
    assert observation["goal"] == "Find B."
    assert observation["goal_object"] == ({"type": "text", "text": "Find B."},)
    assert [m["role"] for m in observation["chat_messages"]] == ["assistant", "user"]
    assert observation["open_pages_urls"] == (f"{home}/",)
    assert observation["open_pages_titles"] == ("Shop",)
    assert observation["screenshot"].shape == (720, 1280, 3)
    assert observation["focused_element_bid"] == bid(observation, "Name")
    assert 'bid="' in flatten_dom_to_str(observation["dom_object"])
    marked = overlay_som(observation["screenshot"], observation["extra_element_properties"])
    assert (marked != observation["screenshot"]).any()
    action = f"fill('{bid(observation, 'Name')}', 'tea')\nclick('{bid(observation, 'Pop')}')"
    observation, reward, terminated, truncated, info = env.step(action)
    assert (observation["last_action"], observation["last_action_error"]) == (action, "")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert observation["open_pages_titles"] == ("Shop", "Bee")
    assert list(observation["active_page_index"]) == [1]
    assert observation["url"] == f"{home}/b"
    assert info["action_exec_stop"] >= info["action_exec_start"] > 0
    observation, *_ = env.step("tab_focus(7)")
    assert observation["last_action_error"] == "IndexError: list index out of range"
    observation, *_ = env.step("goto('file:///etc/passwd')")
    assert observation["last_action_error"].startswith("Error: Page.goto: 'file:///etc/passwd'")
    observation, *_, terminated, _, info = env.step("send_msg_to_user('There is a bee.')")
    assert not terminated  # what is said ends nothing here
    assert observation["chat_messages"][-1]["role"] == "assistant"
    assert observation["chat_messages"][-1]["message"] == "There is a bee."
    observation, *_, terminated, _, info = env.step("report_infeasible('No B.')")
    assert (terminated, info["success"]) == (True, None)
    assert observation["chat_messages"][-1]["role"] == "infeasible"
    with pytest.raises(EpisodeOverError):
        env.step("noop()")


@pytest.mark.browser
def test_only_what_is_wanted_is_looked_at(serve: Serve, make: Make) -> None:
    home = serve({"/": SHOP})
    task = {"start_url": home, "goal": "Look."}
    env = make("openended", task_kwargs=task, observations=(), terminate_on_infeasible=False)
    observation, _ = env.reset(seed=0)
    assert not {"screenshot", "dom_object", "axtree_object"} & set(observation)
    assert observation["focused_element_bid"]
    *_, terminated, _, _ = env.step("report_infeasible('no')")
    assert not terminated
    some = make("openended", task_kwargs=task, observations=["axtree_object"], subsets="chat")
    observation, _ = some.reset(seed=0)
    assert "screenshot" not in observation
    observation, *_ = some.step(f"click('{bid(observation, 'Buy')}')")
    assert observation["last_action_error"] == "NameError: Invalid action type 'click'."


@pytest.mark.browser
def test_observations_are_of_the_space(serve: Serve, make: Make) -> None:
    task = {"start_url": serve({"/": SHOP}), "goal": "Look."}
    env = make(
        "openended",
        task_kwargs=task,
        viewport={"width": 200, "height": 100},
        observations=["screenshot"],
        render_mode="rgb_array",
    )
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.render().shape == (100, 200, 3)
    assert isinstance(observation["screenshot"], np.ndarray)


def cart(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.wfile.write(f"<div class=cart>{handler.headers.get('Cookie', '')}</div>".encode())


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    target = {
        "url": "__SHOPPING__/cart",
        "locator": "document.querySelector('.cart').outerText",
        "required_contents": {"must_include": ["tea"]},
    }
    tasks = [
        {"eval_types": ["program_html"], "program_html": [target]},
        {"eval_types": ["string_match"], "reference_answers": {"exact_match": "12"}},
    ]
    common = {"sites": ["shopping"], "intent": "Buy tea.", "start_url": "__SHOPPING__/"}
    file = tmp_path / "test.raw.json"
    file.write_text(json.dumps([common | {"task_id": i, "eval": e} for i, e in enumerate(tasks)]))
    return file


@pytest.mark.browser
def test_webarenas_tasks_are_scored(serve: Serve, make: Make, task_file: Path) -> None:
    sites = {"shopping": serve({"/": SHOP, "/cart": cart})}
    given = {"task_file": task_file, "browsing": {"sites": sites}}
    env = make("webarena", task_id=0, **given)
    for bought in (True, False):
        observation, _ = env.reset(seed=0)
        assert observation["goal"] == "Buy tea."
        if bought:
            observation, reward, terminated, *_ = env.step(f"click('{bid(observation, 'Buy')}')")
            assert (reward, terminated) == (0.0, False)
        observation, reward, terminated, _, info = env.step("send_msg_to_user('Done.')")
        assert (reward, terminated, info["success"]) == (float(bought), True, bought)
        assert observation["chat_messages"][-1]["message"] == "Done."
    answer = make("webarena", task_id=1, **given)
    answer.reset(seed=0)
    *_, info = answer.step("send_msg_to_user('12')")
    assert info["evaluation"]["score"] == 1.0


def test_bad_arguments() -> None:
    for arguments, error, message in (
        ({"observations": ["axtre_object"]}, UnknownNameError, "Did you mean 'axtree_object'"),
        ({"tags_to_mark": "some"}, ConfigError, "tags_to_mark must be"),
        ({"task_kwargs": {"url": "http://a"}}, ConfigError, "unknown task_kwargs"),
        ({"headfull": True}, ConfigError, "unknown argument 'headfull'"),
        ({"record_video_dir": "x"}, ConfigError, "record_video_dir must be off"),
        ({"browsing": {"max_char": 1}}, UnknownNameError, "'max_char' is not known"),
        ({"subsets": "bid", "action_mapping": None}, ConfigError, "give one"),
    ):
        with pytest.raises(error, match=message):
            BrowserGymOpenEnded(**arguments)
    env = BrowserGymOpenEnded()
    with pytest.raises(ConfigError, match="an episode needs a start_url"):
        env.reset()
    with pytest.raises(EpisodeOverError):
        env.step("noop()")


def test_a_task_file_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="there is no task file; give task_file="):
        BrowserGymWebArena(task_id=0)


def test_browsergyms_own_ids(aliases: None, task_file: Path) -> None:
    assert gym.registry["browsergym/webarena.811"].kwargs == {"task_id": 811}
    env = gym.make(
        "browsergym/openended",
        task_kwargs={"start_url": "http://localhost", "goal": "Look."},
        action_mapping=HighLevelActionSet(["bid"]).to_python_code,
        disable_env_checker=True,
    )
    assert isinstance(env.unwrapped, BrowserGymOpenEnded)
    task = gym.make(
        "browsergym/webarena.1",
        task_file=task_file,
        browsing={"sites": {"shopping": "http://localhost"}},
        disable_env_checker=True,
    )
    assert isinstance(task.unwrapped, BrowserGymWebArena)
