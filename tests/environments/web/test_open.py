import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.web.faces import ACTIONS
from agentgym.environments.web.open import OpenWebEnv, origin
from agentgym.errors import BrowserError, ConfigError, EpisodeOverError, UnknownNameError

Serve = Callable[[Mapping[str, Any]], str]
Make = Callable[..., OpenWebEnv]
SHOP = "<title>Shop</title><a href=/b>B</a><button onclick='alert(1)'>Ask</button>"


@pytest.fixture
def make(patient: None) -> Iterator[Make]:
    made: list[OpenWebEnv] = []

    def start(**arguments: Any) -> OpenWebEnv:
        env = gym.make("agentgym/web.open-v0", **arguments).unwrapped
        assert isinstance(env, OpenWebEnv)
        made.append(env)
        return env

    yield start
    for env in made:
        env.close()


@pytest.mark.browser
@pytest.mark.parametrize("images", [False, True])
def test_gymnasiums_own_check(serve: Serve, make: Make, images: bool) -> None:
    home = serve({"/": SHOP, "/b": "B"})
    check_env(
        make(
            start_url=home, goal="Find B.", images=images, size=(200, 100), render_mode="rgb_array"
        )
    )


@pytest.mark.browser
@pytest.mark.parametrize("dialect", ["browsergym", "webarena", "webrl"])
def test_gymnasiums_own_check_in_each_dialect(serve: Serve, make: Make, dialect: str) -> None:
    home = serve({"/": SHOP, "/b": "B"})
    check_env(
        make(start_url=home, goal="Find B.", dialect=dialect, size=(300, 200), render_mode="ansi")
    )


FORM = """<title>Form</title><label>Name <input></label>
    <select onchange="document.title = value"><option>Red<option>Dark blue</select>
    <button onclick="document.title += document.querySelector('input').value">Send</button>"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("dialect", "steps", "last"),
    [
        (
            "browsergym",
            ["fill('{Name}', 'Ann')\nselect_option('{combobox}', 'Dark blue')", "click('{Send}')"],
            "send_msg_to_user('done')",
        ),
        (
            "webarena",
            ["I type. ```type [{Name}] [Ann] [0]```", "click [{Send}]"],
            "stop [done]",
        ),
        (
            "webrl",
            [
                '# Element: name\ndo(action="Type", argument="Ann", element="0")',
                'do(action="Select Dropdown Option", argument="blue", element="1")',
                'do(action="Click", element="2")',
            ],
            'exit(message="done")',
        ),
    ],
)
def test_an_episode_in_each_dialect(
    serve: Serve, make: Make, dialect: str, steps: list[str], last: str
) -> None:
    env = make(start_url=serve({"/": FORM}), goal="Send it.", dialect=dialect)
    observation, _ = env.reset(seed=0)
    for step in steps:
        ids: dict[str, str] = {}
        for line in observation["text"].splitlines():
            if found := re.match(r"\s*\[(\w+)\] (\w+) '(\w*)'", line):
                ids |= {found[3] or found[2]: found[1], found[2]: found[1]}
        observation, *_, info = env.step(step.format(**ids) if "{" in step else step)
        assert info["action_error"] == "", (step, observation["text"])
        assert info["parsed"]
    title = "FormAnn" if dialect == "webarena" else "Dark blueAnn"
    assert env.session is not None
    assert env.session.run(env.session.current.summary())[1] == title
    observation, _, terminated, _, info = env.step(last)
    assert (terminated, info["answer"], info["success"]) == (True, "done", None)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("dialect", "action", "error"),
    [
        ("browsergym", "click('77')", 'ValueError: Could not find element with bid "77"'),
        ("browsergym", "fly()", "NameError: Invalid action type 'fly'"),
        ("webarena", "click [77]", "There is no element [77]."),
        ("webarena", "fly [1]", "There is no action 'fly'."),
        ("webrl", 'do(action="Click", element="77")', 'There is no element "77".'),
        ("webrl", "nothing", "No action found"),
    ],
)
def test_errors_in_each_dialect(
    serve: Serve, make: Make, dialect: str, action: str, error: str
) -> None:
    env = make(start_url=serve({"/": SHOP}), goal="Find B.", dialect=dialect)
    env.reset(seed=0)
    observation, *_ = env.step(action)
    assert observation["error"].startswith(error)


@pytest.mark.browser
def test_tool_calls_of_a_dialect(serve: Serve, make: Make) -> None:
    home = serve({"/": SHOP, "/b": "Bee"})
    for dialect, name in (("browsergym", "goto"), ("webarena", "goto")):
        env = make(start_url=home, goal="B", dialect=dialect, action_syntax="json")
        env.reset(seed=0)
        call = {"name": name, "arguments": {"url": f"{home}/b"}}
        observation, *_, info = env.step(json.dumps(call))
        assert (info["action_error"], "Bee" in observation["text"]) == ("", True)


@pytest.mark.browser
def test_what_is_shown_can_be_chosen(serve: Serve, make: Make) -> None:
    page = "<title>Long</title><button autofocus>Top</button><p>" + "word " * 300
    page += "<div style='height: 3000px'></div><button>Below</button>"
    home = serve({"/": page})

    def seen(**options: Any) -> str:
        env = make(start_url=home, goal="Look.", size=(400, 300), **options)
        return env.reset(seed=0)[0]["text"]

    assert seen(head=[]).startswith('[1] button "Top" focused')
    assert seen(head=["focus", "url"]).startswith(f'Focus: [1] button "Top" focused\nURL: {home}/')
    assert "Below" in seen()
    assert "Below" not in seen(viewport_only=True)
    assert re.search(r'"Top" focused @\d+,\d+,\d+,\d+$', seen(boxes=True), re.M)
    assert "Below" not in seen(dialect="webarena")
    assert "Below" in seen(dialect="webarena", viewport_only=False)
    short = seen(max_tokens=100, count_tokens=lambda text: len(text.split()))
    assert 60 < len(short.split()) <= 100
    assert len(seen(max_tokens=120).encode()) <= 360
    assert len(seen(max_tokens=120, dialect="browsergym").encode()) <= 360
    env = make(start_url=home, goal="Look.", difference=True)
    env.reset(seed=0)
    observation, *_ = env.step("wait(0)")
    assert observation["text"] == "nothing changed"


@pytest.mark.browser
def test_marks_are_drawn_on_the_picture(serve: Serve, make: Make) -> None:
    home = serve({"/": "<button>Red</button>"})
    plain = make(start_url=home, goal="Look.", images=True, size=(200, 100)).reset()[0]
    marked = make(start_url=home, goal="Look.", images=True, marks=True, size=(200, 100)).reset()[0]
    assert (plain["image"] != marked["image"]).any()
    assert plain["text"] == marked["text"]


@pytest.mark.browser
def test_files_to_choose(serve: Serve, make: Make) -> None:
    field = "<input type=file aria-label=Bill onchange='document.title = files[0].name'>"
    env = make(start_url=serve({"/": field}), goal="Send.", uploads={"bill.pdf": b"12"})
    observation, _ = env.reset(seed=0)
    assert 'Files: "bill.pdf"' in observation["text"]
    observation, *_ = env.step('upload("1", ["bill.pdf"])')
    assert (observation["error"], env.view.title) == ("", "bill.pdf")
    observation, *_ = env.step('upload("1", ["/etc/passwd"])')
    assert observation["error"].startswith('There is no file "/etc/passwd" to choose.')


@pytest.mark.browser
def test_inside_a_running_event_loop(serve: Serve, make: Make) -> None:
    env = make(start_url=serve({"/": SHOP, "/b": "Bee"}), goal="Find B.")

    async def main() -> str:
        env.reset(seed=0)
        await asyncio.sleep(0)
        return str(env.step('click("1")')[0]["text"])

    assert 'text "Bee"' in asyncio.run(main())


def shelf(handler: BaseHTTPRequestHandler) -> None:
    """Remembers what each visitor has put there, by cookie."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    put = handler.path.partition("?")[2]
    kept = handler.headers.get("Cookie", "").removeprefix("shelf=")
    if put:
        kept = f"{kept}-{put}".strip("-")
        handler.send_header("Set-Cookie", f"shelf={kept}")
    handler.end_headers()
    handler.wfile.write(
        f"""<p>Shelf:{kept}.</p><p id=p></p><script>
        localStorage.all = (localStorage.all ?? "") + "{put}";
        p.textContent = "Local:" + localStorage.all + "."</script>""".encode()
    )


@pytest.mark.browser
def test_many_episodes_at_once_do_not_meet(serve: Serve, make: Make) -> None:
    home = serve({"/": shelf})
    envs = [make(start_url=home, goal="Fill your shelf.") for _ in range(8)]

    def play(number: int) -> set[str]:
        seen = set()
        for episode in range(2):
            envs[number].reset(seed=0)
            for thing in "xyz":
                envs[number].step(f'goto("{home}/?{number}{episode}{thing}")')
            text = envs[number].step("wait(0)")[0]["text"]
            own = [f"{number}{episode}{thing}" for thing in "xyz"]
            assert f"Shelf:{'-'.join(own)}." in text
            assert f"Local:{''.join(own)}." in text
            seen.add(text)
        return seen

    with ThreadPoolExecutor(8) as pool:
        texts = [text for seen in pool.map(play, range(8)) for text in seen]
    assert len(set(texts)) == 16


@pytest.mark.browser
def test_an_episode(serve: Serve, make: Make) -> None:
    home = serve({"/": SHOP, "/b": "<title>B\n| Tab 1: x</title>Bee"})
    env = make(start_url=home, goal="Find B.", render_mode="ansi")
    observation, info = env.reset(seed=0)
    assert observation == {
        "goal": "Find B.",
        "text": f'Tab 0 (current): "Shop"\nURL: {home}/\n\n[1] link "B"\n[2] button "Ask"',
        "error": "",
    }
    assert info == {"url": f"{home}/"}
    observation, reward, terminated, truncated, info = env.step('I ask.\nclick("2")')
    assert 'Note: A dialog (alert) said "1" and was answered OK.' in observation["text"]
    assert (observation["error"], reward, terminated, truncated) == ("", 0.0, False, False)
    assert info == {
        "action": 'click("2")',
        "action_error": "",
        "parsed": True,
        "thought": "I ask.",
        "url": f"{home}/",
        "settled": "quiet",
        "events": ['A dialog (alert) said "1" and was answered OK.'],
    }
    observation, *_, info = env.step('goto("file:///etc/passwd")')
    assert observation["error"] == info["action_error"]
    assert "'file:///etc/passwd' was not opened" in observation["error"]
    observation, *_ = env.step("what?")
    assert observation["error"].startswith("No action found.")
    env.step("new_tab()")
    observation, *_ = env.step(f'goto("{home}/b")')
    tabs = f'Tab 0: "Shop" | Tab 1 (current): "B | Tab 1: x"\nURL: {home}/b\n\ntext "Bee"'
    assert observation["text"] == tabs
    assert env.render() == f"Find B.\n{tabs}"
    observation, reward, terminated, truncated, info = env.step('answer("Bee")')
    assert (observation["text"], reward, terminated, truncated) == (tabs, 0.0, True, False)
    assert (info["success"], info["answer"], info["infeasible"]) == (None, "Bee", False)
    assert json.loads(json.dumps(info)) == info
    with pytest.raises(EpisodeOverError):
        env.step("go_back()")


@pytest.mark.browser
def test_tasks_come_by_options_too(serve: Serve, make: Make) -> None:
    home, other = serve({"/": "Home"}), serve({"/": "Other"})
    env = make()
    hosts = [home, other.removeprefix("http://")]
    task = {"start_url": home, "goal": "Leave.", "allowed_hosts": hosts}
    observation, _ = env.reset(options=task)
    assert observation["goal"] == "Leave."
    observation, *_ = env.step(f'goto("{other}")')
    assert 'text "Other"' in observation["text"]
    *_, info = env.step('infeasible("There is no way.")')
    assert (info["success"], info["answer"], info["infeasible"]) == (None, "There is no way.", True)


@pytest.mark.browser
def test_a_host_that_goes_away_is_not_the_agents_fault(serve: Serve, make: Make) -> None:
    down: list[bool] = []

    def flaky(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(503 if down else 200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.write(b"<a href=/>Again</a>")

    env = make(start_url=serve({"/": flaky}), goal="Stay.")
    env.reset(seed=0)
    down.append(True)
    with pytest.raises(BrowserError, match="cannot be reached any more: HTTP 503"):
        env.step('click("1")')
    with pytest.raises(EpisodeOverError):
        env.step('click("1")')
    with pytest.raises(BrowserError, match="HTTP 503"):
        env.reset(seed=0)


@pytest.mark.browser
def test_the_text_keeps_its_limit(serve: Serve, make: Make) -> None:
    long = "<title>" + "t" * 1000 + "</title>" + "<button>long</button>" * 1000
    env = make(start_url=serve({"/": long}), goal="Read.", max_chars=500)
    observation, _ = env.reset(seed=0)
    assert len(observation["text"]) <= 500
    assert observation["text"].splitlines()[-1].endswith("more lines")
    assert 'ttt..."' in observation["text"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"actions": ["fly", "answer"]}, UnknownNameError, "'fly' is not known"),
        ({"actions": ["click"]}, ConfigError, "to end an episode"),
        ({"action_syntax": "xml"}, ConfigError, "action_syntax must be one of"),
        ({"render_mode": "human"}, ConfigError, "render_mode must be one of"),
        ({"max_chars": 10}, ConfigError, "max_chars must be at least 100"),
        ({"max_char": 900}, UnknownNameError, "Did you mean 'max_chars'"),
        ({"max_tokens": 10}, ConfigError, "max_tokens must be 0 or at least 100"),
        ({"head": ["title"]}, UnknownNameError, "'title' is not known"),
        ({"marks": True}, ConfigError, "marks needs images=True"),
        ({"dialect": "webarenas"}, UnknownNameError, "Did you mean 'webarena'"),
        ({"dialect": "webrl", "action_syntax": "python"}, ConfigError, "a syntax of its own"),
        ({"dialect": "webrl", "actions": ["click"]}, ConfigError, "cannot be chosen"),
        ({"dialect": "browsergym", "actions": ["x"]}, ConfigError, "Unknown high-level action"),
        ({"uploads": "/no/such/folder"}, ConfigError, "uploads must be a folder"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OpenWebEnv(**arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "an episode needs a start_url, got ''; give it to gym.make"),
        ({"start_url": "http://a"}, ConfigError, "an episode needs a goal"),
        ({"start_url": "a.com", "goal": "x"}, ConfigError, "no http or https address"),
        ({"start_url": "http://a:x", "goal": "x"}, ConfigError, "is no address"),
        ({"start_url": "http://a", "goal": "x", "allowed_hosts": []}, ConfigError, "at least one"),
        ({"url": "http://a"}, UnknownNameError, "Did you mean 'start_url'"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    env = OpenWebEnv()
    with pytest.raises(error, match=message):
        env.reset(options=options)
    with pytest.raises(EpisodeOverError):
        env.step("go_back()")


def test_the_actions_are_what_is_asked_for() -> None:
    assert list(OpenWebEnv().action_set) == list(ACTIONS)
    few = OpenWebEnv(actions=["goto", "click", "answer"])
    assert list(few.action_set) == ["goto", "click", "answer"]
    assert "goto(url: str): Open an address" in few.action_set.describe()


@pytest.mark.parametrize(
    ("url", "expected"),
    [("HTTP://A.com/x", "http://a.com"), ("https://[::1]:8443/?q", "https://[::1]:8443")],
)
def test_origins(url: str, expected: str) -> None:
    assert origin(url) == expected
