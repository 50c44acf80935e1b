import io
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.web.webarena.environment import WebArenaEnv
from agentgym.errors import BrowserError, ConfigError

Serve = Callable[[Mapping[str, Any]], str]
Make = Callable[..., WebArenaEnv]
SHOP = {
    "/": """<title>Shop</title><a href="/product">Kettle</a>
        <input name="route_from" value="Pier 39">
        <button onclick="document.cookie = 'cart=kettle'">Buy</button>""",
    "/product": "<title>Kettle</title><p id=price>$ 12.50</p><p id=hidden hidden>x</p>",
    "/steer": "<script>n = 0; setInterval(() => document.title = n++, 1)</script>",
}


def cart(handler: BaseHTTPRequestHandler) -> None:
    """Shows the cookies, as a shop shows what its visitor has bought."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    told = handler.headers.get("Cookie", "")
    handler.wfile.write(f"<div class=cart>{told or 'empty'} &amp; more</div>".encode())


def task(id: int, goal: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "task_id": id,
        "sites": ["shopping"],
        "intent": f"Do {id}.",
        "start_url": "__SHOPPING__/",
        "eval": {"reference_answers": None, "reference_url": "", "program_html": [], **goal},
        **more,
    }


def answers(**rules: Any) -> dict[str, Any]:
    return {"eval_types": ["string_match"], "reference_answers": rules}


def html(url: str, locator: str, **required: Any) -> dict[str, Any]:
    target = {"url": url, "locator": locator, "required_contents": required}
    return {"eval_types": ["program_html"], "program_html": [target]}


PRICE = "document.querySelector('#price').outerText"
CART = "document.querySelector('.cart').outerText"
UNCLOSED = "document.querySelector('[name=\"route_from\"').value"
NOTHING = "document.querySelector('#nothing')"
POST, QUERY = "func:reddit_get_post_url('__last_url__')", "func:get_query_text(__page__, '#price')"
STEER = {"eval_types": ["url_match"], "reference_url": "__SHOPPING__/steer"}
BOUGHT = {
    "url": "__SHOPPING__/buy",
    "http_method": "POST",
    "response_status": 302,
    "post_data": {"what": "^Ket.*$"},
    "headers": {"Cookie": "^.*cart=kettle.*$"},
}


def picture(**query: Any) -> dict[str, Any]:
    asked = {"eval_image_url": "last", "eval_image_class": ".photo", **query}
    return {"eval_types": ["page_image_query"], "page_image_query": [asked]}


def verified(id: int, kind: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """A task of WebArena-Verified."""
    said = {"task_type": kind, "status": "SUCCESS", "retrieved_data": None}
    return {
        "task_id": id,
        "sites": ["shopping"],
        "intent": f"Do {id}.",
        "start_urls": ["__SHOPPING__/"],
        "eval": [
            {"evaluator": "AgentResponseEvaluator", "expected": said},
            {"evaluator": "NetworkEventEvaluator", "expected": expected},
        ],
    }


def png(color: str) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "PNG")
    if color == "red":
        out = io.BytesIO()
        Image.new("RGB", (30, 30), "red").save(out, "PNG")
    return out.getvalue()


def bytes_of(data: bytes, kind: str = "image/png") -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def bought(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(int(handler.headers["Content-Length"]))
    handler.send_response(302)
    handler.send_header("Location", "/product")
    handler.end_headers()


TASKS = [
    task(0, answers(exact_match="$12.50")),
    task(1, {"eval_types": ["url_match"], "reference_url": "__SHOPPING__/product"}),
    task(2, html("last", PRICE, exact_match="$ 12.50")),
    task(3, html("__SHOPPING__/cart", CART, must_include=["kettle & more"])),
    task(4, html("last", UNCLOSED, exact_match="pier 39")),
    task(5, answers(fuzzy_match="N/A"), intent="Do what is impossible."),
    task(6, answers(fuzzy_match=["a kettle"])),
    task(7, answers(must_include=["2"]), start_url="__SHOPPING__/product |AND| __SHOPPING__/"),
    task(8, html("last", "", must_include=['id="hidden"'])),
    task(9, html("last", NOTHING + ".outerText", exact_match="x")),
    task(10, html("last", NOTHING, exact_match="none")),
    task(11, html(POST, QUERY, exact_match="$ 12.50")),
    task(12, answers(exact_match="1"), start_url="__REDDIT__/"),
    task(13, {"eval_types": ["page_image_query"]}),
    task(14, STEER, start_url="__SHOPPING__/steer"),
    task(17, picture(eval_fuzzy_image_match="__SHOPPING__/wanted.png")),
    task(18, picture(eval_vqa=[{"question": "Is it red?", "answer": "yes"}]), image="goal.png"),
    verified(19, "navigate", {"url": "__SHOPPING__/product"}),
    verified(20, "mutate", BOUGHT),
    task(15, html("__REDDIT__/", "", must_include=["x"])),
    task(
        16,
        answers(exact_match="x"),
        storage_state="./.auth/shopping_state.json",
        start_url="__SHOPPING__/cart",
    ),
]


@pytest.fixture
def shop(serve: Serve) -> str:
    photos = "<title>P</title><div class=photo><img src=/red.png></div><img src=/grey.png>"
    form = """<script>document.cookie = "cart=kettle"</script><form action=/buy method=post>
        <input name=what value=Kettle><button>Buy</button></form>"""
    pictures = {"/red.png": "red", "/grey.png": "grey", "/wanted.png": "red"}
    return serve(
        {
            **SHOP,
            "/cart": cart,
            "/photos": photos,
            "/form": form,
            "/buy": bought,
            **{path: bytes_of(png(color)) for path, color in pictures.items()},
        }
    )


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a site that is down."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    file = tmp_path / "test.raw.json"
    file.write_text(json.dumps(TASKS))
    return file


@pytest.fixture
def make(patient: None, task_file: Path, shop: str, dead: str) -> Iterator[Make]:
    made: list[WebArenaEnv] = []

    def start(task_id: int | None = None, **arguments: Any) -> WebArenaEnv:
        arguments = {"sites": {"shopping": shop, "reddit": dead}, **arguments}
        made_now = gym.make(
            "agentgym/webarena-v0", task_file=task_file, task_id=task_id, **arguments
        )
        env = made_now.unwrapped
        assert isinstance(env, WebArenaEnv)
        made.append(env)
        return env

    yield start
    for env in made:
        env.close()


def play(env: WebArenaEnv, *actions: str, **options: Any) -> tuple[float, dict[str, Any]]:
    """Reward and info at the end of an episode."""
    env.reset(seed=0, options=options)
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
    assert (terminated, truncated) == (True, False)
    assert json.loads(json.dumps(info)) == info
    return reward, info


OPEN, BUY = 'click("1")', 'click("3")'


@pytest.mark.browser
@pytest.mark.parametrize(
    ("task_id", "actions", "score"),
    [
        (0, ['answer("$12.50")'], 1.0),
        (0, ['answer("$12")'], 0.0),
        (1, [OPEN, 'answer("")'], 1.0),
        (1, ['answer("")'], 0.0),
        (2, [OPEN, 'answer("")'], 1.0),
        (2, ['answer("")'], 0.0),
        (2, ["new_tab()", 'answer("")'], 0.0),
        (3, [BUY, 'answer("")'], 1.0),
        (3, ['answer("")'], 0.0),
        (4, ['answer("")'], 1.0),
        (4, ['type("2", "Pier 40")', 'answer("")'], 0.0),
        (5, ['answer("N/A")'], 1.0),
        (5, ['infeasible("Nobody sells it.")'], 1.0),
        (7, ['answer("2 tabs")'], 1.0),
        (8, [OPEN, 'answer("")'], 1.0),
        (9, ['answer("")'], 0.0),
        (10, ['answer("")'], 1.0),
        (11, [OPEN, 'answer("")'], 1.0),
        (14, ['answer("")'], 1.0),
    ],
)
def test_scores(make: Make, task_id: int, actions: list[str], score: float) -> None:
    reward, info = play(make(task_id), *actions)
    assert (reward, info["success"], info["task_id"]) == (score, score == 1.0, task_id)
    assert info["evaluation"]["score"] == score


@pytest.mark.browser
def test_pictures_on_pages(make: Make, shop: str) -> None:
    reward, info = play(make(17), f'goto("{shop}/photos")', 'answer("")')
    assert (reward, info["evaluation"]["factors"][0]["detail"]) == (1.0, "similarity 1.0000")
    assert play(make(17), 'answer("")')[0] == 0.0  # there is none where it ended
    env = make(18, fetch_picture=lambda url: png("red" if url == "goal.png" else "grey"))
    _, first = env.reset(seed=0)
    (goal,) = first["goal_images"]
    assert goal.startswith("data:image/jpeg;base64,")
    _, info = play(env, f'goto("{shop}/photos")', 'answer("")')
    (question,) = info["evaluation"]["questions"]
    assert (question["kind"], len(question["pictures"])) == ("in_pictures", 1)
    assert info["success"] is None


def says(kind: str) -> str:
    answer = {"task_type": kind, "status": "SUCCESS", "retrieved_data": None}
    return f"answer({json.dumps(json.dumps(answer))})"


@pytest.mark.browser
def test_verified_tasks(make: Make, shop: str) -> None:
    assert play(make(19), OPEN, says("navigate"))[0] == 1.0
    assert play(make(19), OPEN, "go_back()", says("navigate"))[0] == 0.0
    assert play(make(19), OPEN, 'answer("done")')[0] == 0.0
    reward, info = play(make(20), f'goto("{shop}/form")', 'click("2")', says("mutate"))
    assert reward == 1.0, info["evaluation"]
    reward, info = play(make(20), f'goto("{shop}/form")', says("mutate"))
    assert (reward, info["evaluation"]["factors"][1]["detail"]) == (0.0, "no such request")


@pytest.mark.browser
def test_gymnasiums_own_check(make: Make) -> None:
    check_env(make(0, size=(200, 100), render_mode="rgb_array"))


@pytest.mark.browser
def test_the_originals_own_language(make: Make, shop: str) -> None:
    env = make(1, dialect="webarena")
    text = env.reset(seed=0)[0]["text"]
    assert text.startswith("Tab 0 (current): Shop\n\n[1] RootWebArea 'Shop'")
    assert text.endswith(f"URL: {shop}/")
    (link,) = re.findall(r"\[(\d+)\] link 'Kettle'", text)
    reward, info = play(env, f"I open it. ```click [{link}]```", "```stop [N/A]```")
    assert (reward, info["answer"], info["success"]) == (1.0, "N/A", True)


@pytest.mark.browser
def test_several_start_addresses_are_tabs(make: Make, shop: str) -> None:
    observation, _ = make().reset(options={"task_id": 7})
    tabs = 'Tab 0 (current): "Kettle" | Tab 1: "Shop"'
    assert observation["text"].startswith(f"{tabs}\nURL: {shop}/product\n")
    assert observation["goal"] == "Do 7."


@pytest.mark.browser
@pytest.mark.parametrize(("task_id", "kind"), [(5, "same_reason"), (6, "same_meaning")])
def test_what_a_judge_must_tell_stays_open(make: Make, task_id: int, kind: str) -> None:
    env = make(task_id)
    reward, info = play(env, 'answer("It boils water.")')
    assert (reward, info["success"], info["evaluation"]["score"]) == (0.0, None, None)
    (question,) = info["evaluation"]["questions"]
    assert (question["kind"], question["answer"]) == (kind, "it boils water.")


@pytest.mark.browser
def test_the_last_turn_is_evaluated_as_it_is(make: Make) -> None:
    env = make(1, max_turns=2)
    reward, info = play(env, "go_back()", OPEN)
    assert (reward, info["success"], info["answer"]) == (1.0, True, "")


@pytest.mark.browser
def test_strict_mode(make: Make) -> None:
    reward, info = play(make(1, mode="strict"), OPEN, "go_back()", 'answer("")')
    assert (reward, info["success"]) == (0.0, False)


@pytest.mark.browser
def test_nothing_but_the_sites_can_be_opened(make: Make, task_file: Path, serve: Serve) -> None:
    other = serve({"/": "Answers"})
    env = make(0)
    env.reset(seed=0)
    for url in (task_file.as_uri(), f"view-source:{task_file.as_uri()}", other):
        observation, *_ = env.step(f'goto("{url}")')
        assert "was not opened" in observation["error"]
        assert "12.50" not in observation["text"]


@pytest.mark.browser
def test_sites_that_are_down_are_not_the_agents_fault(make: Make) -> None:
    with pytest.raises(BrowserError, match="ERR_CONNECTION_REFUSED"):
        make(12).reset(seed=0)
    env = make(15)  # only its evaluation needs the site
    env.reset(seed=0)
    with pytest.raises(BrowserError, match="ERR_CONNECTION_REFUSED"):
        env.step('answer("")')


@pytest.mark.browser
def test_logins(make: Make, tmp_path: Path) -> None:
    cookie = {"name": "user", "value": "emma", "domain": "127.0.0.1", "path": "/"}
    (tmp_path / "shopping_state.json").write_text(json.dumps({"cookies": [cookie]}))
    observation, _ = make(16, logins=tmp_path).reset(seed=0)
    assert 'text "user=emma & more"' in observation["text"]
    observation, _ = make(16).reset(seed=0)
    assert 'text "empty & more"' in observation["text"]
    with pytest.raises(ConfigError, match="holds no storage state"):
        make(16, logins=tmp_path / "none").reset(seed=0)


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        (None, "task_id must be a whole number, got None"),
        (99, "there is no task 99"),
        (13, r"there is no task 13.*page_image_query needs at least one query"),
    ],
)
def test_bad_tasks(make: Make, task_id: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(task_id).reset(seed=0)


def test_a_site_without_an_address_is_told(make: Make, shop: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no task 12.*the address of 'reddit'"):
        make(12, sites={"shopping": shop}).reset(seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "there is no task file"),
        ({"task_file": "none.json"}, "is no readable task file"),
        ({"task_file": "x", "mode": "lenient"}, "mode must be one of"),
        ({"task_file": "x", "max_turns": -1}, "max_turns must be at least 0"),
        ({"task_file": "x", "start_url": "http://a"}, "start_url comes from the task"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WebArenaEnv(**arguments)
