"""A page as compact text: one line per element, for models with a small budget."""

from agentgym.environments.web.view import Element, PageView

LONG_LINE = 0.4
"""Share of the whole text that one line may take once not everything fits."""


def render(
    view: PageView, max_chars: int = 4000, *, coordinates: bool = False, boxes: bool = False
) -> str:
    r"""The page as text, at most `max_chars` characters.

    Args:
        view: the page.
        max_chars: if the text is longer, long lines lose their middle first (`LONG_LINE` of the
            whole at most); then the last lines are left out, and one more says how many.
        coordinates: each line ends with the element's middle, ``@x,y`` in pixels.
        boxes: each line ends with the element's left, top, width and height, ``@x,y,w,h``.

    Example:
        >>> render(PageView((Element("1", "button", "Ok"), Element("", "text", "Done?"))))
        '[1] button "Ok"\ntext "Done?"'
    """
    lines = [line(element, coordinates, boxes) for element in view.elements]
    text = "\n".join(lines)
    if len(text) <= max_chars:
        return text
    lines = [_without_middle(each, int(max_chars * LONG_LINE)) for each in lines]
    if sum(len(each) + 1 for each in lines) - 1 <= max_chars:
        return "\n".join(lines)
    return cut_lines("\n".join(lines), max_chars)


def cut_lines(text: str, max_chars: int) -> str:
    """The text, or as many of its first lines as fit and one that says how many do not."""
    if len(text) <= max_chars:
        return text
    lines = text.split("\n")
    kept: list[str] = []
    left = max_chars - len(_marker(len(lines)))
    for each in lines:
        if len(each) + 1 > left:
            break
        kept.append(each)
        left -= len(each) + 1
    return "\n".join([*kept, _marker(len(lines) - len(kept))])[:max_chars]


def line(element: Element, coordinates: bool = False, box: bool = False) -> str:
    """One element as one line, e.g. ``[5] textbox "Username" value="bob" focused``."""
    parts = [f"[{element.id}] {element.role}" if element.id else element.role]
    if element.name:
        parts.append(_quoted(element.name))
    if element.value:
        parts.append(f"value={_quoted(element.value)}")
    if element.options:
        parts.append(f"options: {', '.join(_quoted(o) for o in element.options)}")
    parts.extend(element.states)
    x, y, width, height = element.box
    if box:
        parts.append(f"@{round(x)},{round(y)},{round(width)},{round(height)}")
    elif coordinates:
        parts.append(f"@{round(x + width / 2)},{round(y + height / 2)}")
    return " ".join(parts)


def _without_middle(text: str, limit: int) -> str:
    """The text, at most `limit` characters of it: its beginning and its end."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _marker(count: int) -> str:
    return f"... {count} more lines"


def _quoted(text: str) -> str:
    return '"' + text.replace("\n", "\\n").replace('"', '\\"') + '"'
