"""The least that a step on a MiniWoB page takes, for `benchmark`: the protocol and nothing else.

No environment, no threads, no waiting: a click or a text by CDP, one small pass over the page, and
a picture if there is to be one. What is slower is ours.
"""

import asyncio
import base64
import io
import json
from typing import TYPE_CHECKING, Any

from agentgym.environments.web import browser as engine
from agentgym.environments.web.cdp import CDPSession, Connection
from agentgym.environments.web.foreign import Move, moves
from agentgym.environments.web.miniwob import HEIGHT, WIDTH, html_folder

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import Playwright

_LOOK = """JSON.stringify({
  elements: [...document.querySelectorAll("#area input, #area button, #area label, #area p")].map(
    (e) => { const r = e.getBoundingClientRect();
      return [e.localName, e.textContent, e.value ?? "", r.x, r.y, r.width, r.height]; }),
  done: WOB_DONE_GLOBAL, reward: WOB_RAW_REWARD_GLOBAL })"""
_POINT = """(({0}) => {{ const r = {0}.getBoundingClientRect();
  return [r.x + r.width / 2, r.y + r.height / 2]; }})"""


class RawCdp:
    """Plays a task by hand, at the pace of Chromium.

    Args:
        task: one that `foreign.moves` knows.
        images: take a picture at each look.
    """

    def __init__(self, task: str, *, images: bool = False) -> None:
        self.task = task
        self.images = images
        self._runner = asyncio.Runner()
        self._playwright: Playwright
        self._chromium: Chromium
        self._stepped: bool
        self._session: CDPSession
        self._moves: list[Move] = []
        self._runner.run(self._open())

    def begin(self, page_seed: int) -> str:
        """Begin an episode on the page that is loaded; returns the goal."""
        return self._runner.run(self._begin(page_seed))

    def choose(self) -> tuple[Move, tuple[float, float]]:
        """The next move, and where; not measured, since an agent knows it from its last look."""
        move = self._moves.pop(0)
        x, y = self._runner.run(self._evaluate(f"{_POINT.format('e')}({_element(move)})"))
        return move, (x, y)

    def step(self, action: tuple[Move, tuple[float, float]]) -> tuple[float, bool]:
        """Act and look; returns the reward and whether the episode is over."""
        return self._runner.run(self._step(*action))

    def close(self) -> None:
        """Stop Chromium."""
        self._runner.run(self._stop())
        self._runner.close()

    async def _open(self) -> None:
        from playwright.async_api import async_playwright

        self._playwright = await async_playwright().start()
        self._chromium, self._stepped = await engine.launch_stepped(self._playwright)
        context = await engine.new_context(self._chromium, (WIDTH, HEIGHT))
        page = await context.new_page()
        await page.goto((html_folder() / "miniwob" / f"{self.task}.html").as_uri())
        connection = await Connection.to(self._chromium)
        found = await connection.browser.send("Target.getTargets")
        target = next(t for t in found["targetInfos"] if t["url"] == page.url)
        self._session = await connection.attach(target["targetId"])

    async def _begin(self, page_seed: int) -> str:
        goal = await self._evaluate(
            "document.activeElement?.blur(); if (core.EP_TIMER !== null) core.endEpisode(0);"
            f"Math.seedrandom({page_seed}); core.EPISODE_MAX_TIME = 1e9; core.startEpisodeReal();"
            "core.getUtterance()"
        )
        await self._look()
        self._moves = moves(self.task, goal)
        return str(goal)

    async def _step(self, move: Move, at: tuple[float, float]) -> tuple[float, bool]:
        kind, _, text, _ = move
        mouse = {"x": at[0], "y": at[1], "button": "left", "clickCount": 1}
        await asyncio.gather(
            *(
                self._session.post("Input.dispatchMouseEvent", mouse | {"type": event})
                for event in ("mousePressed", "mouseReleased")
            )
        )
        if kind == "fill":
            await self._session.send("Input.insertText", {"text": text})
        seen = await self._look()
        return float(seen["reward"] or 0), bool(seen["done"])

    async def _look(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(await self._evaluate(_LOOK))
        if self.images:
            from PIL import Image

            with Image.open(io.BytesIO(base64.b64decode(await self._photograph()))) as picture:
                picture.convert("RGB")
        return seen

    async def _photograph(self) -> str:
        options = {"format": "png", "optimizeForSpeed": True}
        if not self._stepped:
            return str((await self._session.send("Page.captureScreenshot", options))["data"])
        frame = {"screenshot": options}
        while "screenshotData" not in (
            answer := await self._session.send("HeadlessExperimental.beginFrame", frame)
        ):
            pass  # the very first frame has nothing to show yet
        return str(answer["screenshotData"])

    async def _evaluate(self, expression: str) -> Any:
        message = {"expression": expression, "returnByValue": True}
        return (await self._session.send("Runtime.evaluate", message))["result"].get("value")

    async def _stop(self) -> None:
        await self._chromium.close()
        await self._playwright.stop()


def _element(move: Move) -> str:
    """An expression for the element that a move is about."""
    _, role, text, number = move
    match role:
        case "checkbox":
            return (
                '[...document.querySelectorAll("#area label")].filter('
                f"(l) => l.textContent.trim() === {json.dumps(text)})[{number}]"
                '.querySelector("input")'
            )
        case "textbox":
            return f'document.querySelectorAll("#area input")[{number}]'
    return 'document.querySelector("#subbtn, #area button")'
