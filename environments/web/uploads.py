"""Files that an agent may choose for file fields: those it was given, and no others of the machine.

The files' bytes are handed to the page; no path leaves this process, and Chromium reads no file.
"""

import asyncio
import base64
import json
import mimetypes
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from agentgym.actions import ActionCall, ActionSpec
from agentgym.environments.web.actions import Hands, perform
from agentgym.environments.web.page import Page
from agentgym.environments.web.view import PageView
from agentgym.errors import ConfigError

MAX_BYTES = 20_000_000
"""Of all files of one action."""
MAX_NAMES = 50
CHOOSER_S = 1.0
"""How long a page may take to ask for a file, once it has been clicked."""
_POINT = re.compile(r"(-?\d+(?:\.\d+)?),(-?\d+(?:\.\d+)?)")
_FILL = """((element, files) => {
  if (!element) return "gone";
  const field = element.localName === "label" ? element.control : element;
  if (field?.localName !== "input" || field.type !== "file") return "no file field";
  if (field.disabled) return "disabled";
  if (files.length > 1 && !field.multiple) return "one file only";
  const chosen = new DataTransfer();
  for (const [name, type, data] of files) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    chosen.items.add(new File([bytes], name, { type }));
  }
  field.files = chosen.files;
  field.dispatchEvent(new Event("input", { bubbles: true, composed: true }));
  field.dispatchEvent(new Event("change", { bubbles: true }));
  return "";
})"""


def upload(element: str, files: list[str]) -> None:
    """Choose files, by name, for a file field or a button that asks for files."""


UPLOAD = ActionSpec.from_function(upload)


class Uploads:
    """The files that an agent may choose.

    Args:
        files: a folder, whose files may be named by their path in it, or names with bytes.

    Raises:
        ConfigError: it is no folder, or a name is empty.

    Example:
        >>> Uploads({"receipt.txt": b"12.50"}).names()
        ['receipt.txt']
    """

    def __init__(self, files: Mapping[str, bytes] | Path | str) -> None:
        self._given: Mapping[str, bytes] | None = None
        self._folder = Path()
        if isinstance(files, Mapping):
            if not all(isinstance(n, str) and n and isinstance(b, bytes) for n, b in files.items()):
                raise ConfigError("uploads must be names with bytes, or a folder")
            self._given = dict(files)
        else:
            self._folder = Path(files).resolve()
            if not self._folder.is_dir():
                raise ConfigError(f"uploads must be a folder or names with bytes, got {files!r}")

    def names(self) -> list[str]:
        """What may be chosen, at most `MAX_NAMES`."""
        if self._given is not None:
            return sorted(self._given)[:MAX_NAMES]
        found = (path for path in sorted(self._folder.rglob("*")) if self._inside(path))
        return [path.relative_to(self._folder).as_posix() for path in islice(found, MAX_NAMES)]

    async def choose(self, page: Page, element: str, files: Sequence[str]) -> str:
        """Choose files; only on the browser's loop.

        Args:
            page: the page.
            element: id of a file field, of its label, or of what opens a choice of files; or a
                point as "x,y".
            files: names.

        Returns:
            What was wrong, said for the agent; empty if the page has the files.
        """
        data, error = self._data(files)
        if error:
            return error
        point = _POINT.fullmatch(element)
        if point is None:
            given = f"agentgym.find({json.dumps(element)}), {json.dumps(data)}"
            state = str(await page.ask(f"{_FILL}({given})"))
            if state != "no file field":
                return _problem(page, element, state)
            click = ActionCall("click", {"element": element})
        else:
            click = ActionCall("click_at", {"x": float(point[1]), "y": float(point[2])})
        return await self._asked(page, click, element, data)

    async def _asked(self, page: Page, click: ActionCall, element: str, data: list[Any]) -> str:
        """Click, and answer the page's question for files."""
        send = page.session.send
        asked: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def opened(event: dict[str, Any]) -> None:
            if not asked.done():
                asked.set_result(event)

        page.session.on("Page.fileChooserOpened", opened)
        await send("Page.setInterceptFileChooserDialog", {"enabled": True})
        try:
            error = await perform(page, click, PageView(()))
            if error:
                return error
            event = await asyncio.wait_for(asked, CHOOSER_S)
        except TimeoutError:
            return f"Element {json.dumps(element)} asks for no file."
        finally:
            page.session.remove_listener("Page.fileChooserOpened", opened)
            await send("Page.setInterceptFileChooserDialog", {"enabled": False})
        node = await send("DOM.resolveNode", {"backendNodeId": event["backendNodeId"]})
        answer = await send(
            "Runtime.callFunctionOn",
            {
                "functionDeclaration": f"function (files) {{ return {_FILL}(this, files); }}",
                "objectId": node["object"]["objectId"],
                "arguments": [{"value": data}],
                "returnByValue": True,
            },
        )
        return _problem(page, element, str(answer["result"].get("value", "gone")))

    def _data(self, files: Sequence[str]) -> tuple[list[Any], str]:
        """Name, type and base64 of each file, or what is wrong."""
        data: list[Any] = []
        size = 0
        for name in files:
            content = self._read(name)
            if content is None:
                known = ", ".join(map(json.dumps, self.names())) or "none"
                return [], f"There is no file {json.dumps(name[:100])} to choose. Files: {known}."
            size += len(content)
            if size > MAX_BYTES:
                return [], f"Files of more than {MAX_BYTES:,} bytes cannot be chosen."
            kind = mimetypes.guess_type(name)[0] or ""
            data.append((Path(name).name, kind, base64.b64encode(content).decode()))
        return data, ""

    def _read(self, name: str) -> bytes | None:
        if self._given is not None:
            return self._given.get(name)
        path = self._folder / name
        if "\0" in name or not self._inside(path):
            return None
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)

    def _inside(self, path: Path) -> bool:
        """Whether it is a file of the folder, where links lead considered."""
        try:
            real = path.resolve()
            return real.is_relative_to(self._folder) and real.is_file()
        except (OSError, RuntimeError):
            return False


def _problem(page: Page, element: str, state: str) -> str:
    if state == "one file only":
        return f"Element {json.dumps(element)} takes one file only."
    return Hands(page, PageView(())).problem(element, state) if state else ""
