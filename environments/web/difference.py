"""What changed between two observations, as text: exact, short, and reversible line by line."""

import difflib
from collections.abc import Iterator, Sequence

from agentgym.errors import ConfigError

UNCHANGED = "nothing changed"
"""What `difference` says of equal texts."""


def difference(before: str, after: str, *, context: int = 0) -> str:
    r"""How to make the second text of the first, one change after the other.

    Each change begins with a line ``@ n`` (insert before line n), ``@ n-m`` (lines n to m go) and
    goes on with lines that begin with ``-`` (goes), ``+`` (comes) or a blank (stays, if there is
    `context`). Lines count from 1, in the first text. With the first text and `patched` the second
    one is exactly recovered.

    Args:
        before: the observation that the reader knows.
        after: the observation now.
        context: lines that stay, around each change.

    Example:
        >>> print(difference('[1] textbox\n[2] button', '[1] textbox value="a"\n[2] button'))
        @ 1-1
        -[1] textbox
        +[1] textbox value="a"
    """
    if before == after:
        return UNCHANGED
    old, new = before.split("\n"), after.split("\n")
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    lines: list[str] = []
    for group in matcher.get_grouped_opcodes(context):
        first, last = group[0][1], group[-1][2]
        lines.append(f"@ {first + 1}" if first == last else f"@ {first + 1}-{last}")
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines += [f" {line}" for line in old[i1:i2]]
            else:
                lines += [f"-{line}" for line in old[i1:i2]]
                lines += [f"+{line}" for line in new[j1:j2]]
    return "\n".join(lines)


def patched(before: str, change: str) -> str:
    r"""The second text, from the first one and the `difference` between them.

    Raises:
        ConfigError: it is no difference from this text.

    Example:
        >>> patched("a\nb\nc", difference("a\nb\nc", "a\nB\nc"))
        'a\nB\nc'
    """
    if change == UNCHANGED:
        return before
    old = before.split("\n")
    new: list[str] = []
    done = 0  # lines of the first text
    for first, lines in _changes(change):
        new += old[done:first]
        done = first
        for line in lines:
            mark, text = line[:1], line[1:]
            if mark == "+":
                new.append(text)
                continue
            if mark not in ("-", " ") or old[done : done + 1] != [text]:
                raise ConfigError(f"{line!r} is not a change of line {done + 1} of this text")
            if mark == " ":
                new.append(text)
            done += 1
    return "\n".join(new + old[done:])


def _changes(change: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Where each change begins, counted from 0, and its lines."""
    lines = change.split("\n")
    heads = [index for index, line in enumerate(lines) if line.startswith("@ ")]
    if not heads or heads[0] != 0:
        raise ConfigError(f"a difference begins with '@ ' and a line, got {change[:40]!r}")
    for head, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        number = lines[head][2:].split("-")[0]
        if not number.isdigit() or number == "0":
            raise ConfigError(f"{lines[head]!r} names no line; lines count from 1")
        yield int(number) - 1, lines[head + 1 : end]


def observation_text(before: str, after: str, *, context: int = 0) -> str:
    """The difference to what was seen before, or the whole where that is not longer.

    For agents with a small budget: what they read is never longer than the page, and exact.

    Args:
        before: the observation before; empty if there was none.
        after: the observation now.
        context: see `difference`.
    """
    change = difference(before, after, context=context) if before else after
    return change if len(change) < len(after) else after
