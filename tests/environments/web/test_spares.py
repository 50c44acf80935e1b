import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from agentgym.environments.web import spares as spares_module
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.session import Session
from agentgym.environments.web.spares import MAX_SPARES, Spares
from agentgym.errors import BrowserError

Serve = Callable[[Mapping[str, Any]], str]
Surf = Callable[..., Any]


class Thing:
    def __init__(self, kind: str, number: int) -> None:
        self.name = f"{kind}{number}"
        self.works = True
        self.discarded = 0

    async def usable(self) -> bool:
        await asyncio.sleep(0.01)  # a page answers later, and others come meanwhile
        return self.works

    def discard(self) -> None:
        self.discarded += 1


class Shelf:
    """Spares of things, and all things that were ever made."""

    def __init__(self) -> None:
        self.spares: Spares[Thing] = Spares()
        self.made: list[Thing] = []

    def maker(self, kind: str) -> Callable[[], Awaitable[Thing]]:
        async def make() -> Thing:
            await asyncio.sleep(0)
            self.made.append(Thing(kind, len(self.made)))
            return self.made[-1]

        return make

    async def take(self, kind: str) -> str:
        taken = await self.spares.take(kind, self.maker(kind))
        self.spares.fill(kind, self.maker(kind))
        await self.filled()
        return taken.name

    async def filled(self) -> None:
        assert self.spares._filling is not None
        await self.spares._filling


def test_each_is_taken_once_and_the_next_is_made_behind_it() -> None:
    async def main() -> None:
        shelf = Shelf()
        assert await shelf.take("a") == "a0"
        assert len(shelf.spares) == 1
        shelf.spares.left("a")
        assert await shelf.take("a") == "a1"  # which had waited
        assert [thing.name for thing in shelf.made] == ["a0", "a1", "a2"]
        assert await shelf.take("b") == "b3"  # nothing of another kind
        assert len(shelf.spares) == 2  # one of each kind that is in use

    asyncio.run(main())


def test_as_many_wait_as_are_in_use_but_not_more_than_the_limit() -> None:
    async def main() -> None:
        shelf = Shelf()
        for number in range(1, 8):
            await shelf.take("a")
            assert len(shelf.spares) == min(number, MAX_SPARES)
        await shelf.take("b")  # the oldest gives way
        assert len(shelf.spares) == MAX_SPARES
        assert sum(thing.discarded for thing in shelf.made) == 1
        for _ in range(7):
            shelf.spares.left("a")
        shelf.spares.fill("a", shelf.maker("a"))
        await shelf.filled()
        assert len(shelf.spares) == MAX_SPARES  # none is in use: none is made

    asyncio.run(main())


def test_a_spare_that_fails_costs_nothing() -> None:
    async def main() -> None:
        shelf = Shelf()
        await shelf.take("a")
        shelf.made[1].works = False
        assert await shelf.take("a") == "a2"
        assert shelf.made[1].discarded == 1

        async def fails() -> Thing:
            raise BrowserError("Chromium ended")

        shelf.spares.fill("a", fails)
        await shelf.filled()
        with pytest.raises(BrowserError):
            await shelf.spares.take("z", fails)
        shelf.spares.fill("z", shelf.maker("z"))  # what was not taken is not in use
        await shelf.filled()
        assert all(thing.name[0] != "z" for thing in shelf.made)

    asyncio.run(main())


def test_takers_at_once_get_different_ones() -> None:
    async def main() -> None:
        shelf = Shelf()
        for _ in range(3):
            await shelf.take("a")
        assert len(shelf.spares) == 3
        shelf.made[4].works = False
        taken = await asyncio.gather(*(shelf.spares.take("a", shelf.maker("a")) for _ in range(5)))
        assert len({each.name for each in taken}) == 5
        assert all(each.works and not each.discarded for each in taken)
        shelf.spares.fill("a", shelf.maker("a"))
        await shelf.filled()
        made = len(shelf.made)
        late = asyncio.ensure_future(shelf.spares.take("a", shelf.maker("a")))
        await asyncio.sleep(0)
        late.cancel()  # whoever waits no longer leaves none behind
        await asyncio.wait([late])
        assert sum(each.discarded for each in shelf.made[:made]) == 2

    asyncio.run(main())


def test_what_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        shelf = Shelf()
        with monkeypatch.context() as limits:
            limits.setattr(spares_module, "KEEP_S", 0.0)
            await shelf.take("a")
        while len(shelf.spares):
            await asyncio.sleep(0.001)
        assert shelf.made[1].discarded == 1
        await shelf.take("a")
        await shelf.spares.close()
        assert len(shelf.spares) == 0
        assert all(thing.discarded == 1 for thing in shelf.made if thing.name in ("a1", "a3"))

    asyncio.run(main())


# ---- sessions -----------------------------------------------------------------------------------


def waiting(browser: Browser) -> list[Session]:
    """The sessions that wait, once the last of them is made."""

    async def look() -> list[Session]:
        if browser.spares._filling is not None:
            await asyncio.wait([browser.spares._filling])
        return [spare for _, spare in browser.spares._waiting]

    return browser.run(look(), 30)


def cookies(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Set-Cookie", "who=first")
    handler.end_headers()
    told = handler.headers.get("Cookie", "nobody")
    handler.wfile.write(
        f"""<p>{told}</p><p id=p></p><script>
        p.textContent = localStorage.x ?? "empty"; localStorage.x = "full"</script>""".encode()
    )


@pytest.mark.browser
def test_the_next_session_is_ready_and_shares_nothing(serve: Serve, surf: Surf) -> None:
    home = serve({"/": cookies})
    size = (321, 234)  # nobody else's
    first = surf(home, size=size, dialogs="dismiss")
    (spare,) = [each for each in waiting(Browser.shared()) if each.size == size]
    assert (spare.guard.refusal(home), spare.relay.allows("127.0.0.1", 80)) != ("", True)
    second = surf(home, size=size)
    assert second.session is spare
    assert second.session._context_id != first.session._context_id
    assert first.text == second.text == 'text "nobody"\ntext "empty"'
    assert second.session.guard.refusal(home) == ""
    assert (first.session._dialogs, second.session._dialogs) == ("dismiss", "accept")
    other = surf(home, size=size, locale="de-DE")  # another kind, so not the one that waits
    assert other.session._kind != second.session._kind


@pytest.mark.browser
def test_a_spare_that_crashes_is_not_taken(serve: Serve, surf: Surf) -> None:
    home = serve({"/": "Home"})
    size = (322, 234)
    surf(home, size=size)
    (spare,) = [each for each in waiting(Browser.shared()) if each.size == size]
    with pytest.raises(BrowserError):
        spare.current.run(spare.current.session.send("Page.crash"))
    after = surf(home, size=size)
    assert after.session is not spare
    assert after.text == 'text "Home"'


@pytest.mark.browser
def test_no_spare_outlives_chromium(serve: Serve, surf: Surf, tmp_path: Path) -> None:
    home = serve({"/": "Home"})
    for end in (Browser.kill, Browser.close):
        surf(home, size=(323, 234))
        browser = Browser.shared()
        spares = waiting(browser)
        assert spares
        end(browser)
        again = surf(home, size=(323, 234))  # in a new Chromium
        assert again.text == 'text "Home"'
        assert again.session not in spares
        assert all(spare.relay._server is None for spare in spares)
