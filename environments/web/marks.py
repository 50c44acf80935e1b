"""Set-of-marks: boxes and labels of elements, drawn on a screenshot and never into the page."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agentgym.environments.web.view import PageView
from agentgym.types import ImageArray

if TYPE_CHECKING:
    from PIL import ImageDraw

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the picture."""
MIN_AREA: Final = 20.0
"""Smaller boxes, in square pixels, are not marked."""
_COLORS: Final = (
    (200, 30, 30),
    (20, 90, 200),
    (10, 120, 60),
    (140, 50, 160),
    (170, 90, 0),
    (0, 110, 130),
    (190, 20, 110),
    (80, 80, 80),
)  # all dark enough for white letters
_GAP = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """One element to be marked."""

    label: str
    box: Box


def marks_of(view: PageView) -> list[Mark]:
    """The marks of what can be acted on and is in view."""
    return [
        Mark(element.id, element.box)
        for element in view
        if element.id and "offscreen" not in element.states
    ]


def texts_of(view: PageView) -> list[Box]:
    """Where the view's plain texts are, for `draw_marks` to keep clear of."""
    return [element.box for element in view if not element.id]


def draw_marks(
    image: ImageArray, marks: Iterable[Mark], *, texts: Iterable[Box] = (), font_size: int = 11
) -> ImageArray:
    """A copy of a picture with a box and a label for each mark.

    Neighbours have different colours. A label stands at a corner of its box, inside or outside,
    wherever it covers the least of other labels, of texts and of small boxes, and always within the
    picture.

    Args:
        image: (H, W, 3).
        marks: what to mark; those outside the picture, and smaller than `MIN_AREA`, are left out.
        texts: what labels should not hide, besides each other and the marked elements.
        font_size: of the labels, in pixels.

    Returns:
        (H, W, 3)
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(font_size)
    width, height = picture.size
    shown = [mark for mark in marks if _fits(mark.box, width, height)]
    for number, mark in enumerate(shown):
        draw.rectangle(_corners(mark.box, width, height), outline=_COLORS[number % len(_COLORS)])
    taken: list[Box] = []
    read = list(texts)
    for number, mark in enumerate(shown):
        left, top, right, bottom = font.getbbox(mark.label)
        size = (right - left + 4, bottom - top + 4)
        others = [other.box for other in shown if other is not mark]
        x, y = min(
            _places(mark.box, size, width, height),
            key=lambda place: _cost((*place, *size), taken, read, others),
        )
        taken.append((x, y, *size))
        label = (x, y, x + size[0] - 1, y + size[1] - 1)
        draw.rectangle(label, fill=_COLORS[number % len(_COLORS)])
        draw.text((x + 2 - left, y + 2 - top), mark.label, font=font, fill=(255, 255, 255))
    return np.asarray(picture, dtype=np.uint8).copy()


def _fits(box: Box, width: int, height: int) -> bool:
    x, y, w, h = box
    return w * h >= MIN_AREA and x < width and y < height and x + w > 0 and y + h > 0


def _corners(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    x, y, w, h = box
    return (
        max(0, round(x)),
        max(0, round(y)),
        min(width - 1, round(x + w) - 1),
        min(height - 1, round(y + h) - 1),
    )


def _places(
    box: Box, size: tuple[float, float], width: int, height: int
) -> Iterator[tuple[float, float]]:
    """Where a label may stand, the best first."""
    x, y, w, h = box
    across, down = size
    for left, top in (
        (x, y - down + _GAP),  # above, outside
        (x - across + _GAP, y),  # left
        (x + w - _GAP, y),  # right
        (x, y + h - _GAP),  # below
        (x, y),  # inside
        (x + w - across, y),
        (x + w - across, y + h - down),
        (x, y + h - down),
    ):
        yield (
            float(round(min(max(left, 0.0), width - across))),
            float(round(min(max(top, 0.0), height - down))),
        )


def _cost(label: Box, labels: Iterable[Box], texts: Iterable[Box], boxes: Iterable[Box]) -> float:
    """How bad a label's place is: its share on other labels and on texts, and how much it hides."""
    area = label[2] * label[3]
    covered = sum(_overlap(label, other) for other in labels) / area
    unread = sum(_overlap(label, text) for text in texts) / area
    hidden = sum(_overlap(label, box) / (box[2] * box[3]) for box in boxes if box[2] * box[3] > 0)
    return 4 * covered + 2 * unread + hidden


def _overlap(a: Box, b: Box) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, down)


def overlay_som(
    screenshot: ImageArray,
    extra_properties: Mapping[str, Mapping[str, Any]],
    fontsize: int = 12,
    linewidth: int = 2,
    tag_margin: int = 2,
) -> ImageArray:
    """BrowserGym's marks: dashed black boxes, each with its bid in white on black at the top left.

    Args:
        screenshot: (H, W, 3).
        extra_properties: ``set_of_marks`` and ``bbox`` of each bid.
        fontsize: of the bids, in pixels.
        linewidth: of the boxes, in pixels.
        tag_margin: around each bid, in pixels.

    Returns:
        (H, W, 3)
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(np.ascontiguousarray(screenshot)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(fontsize)
    for bid, told in extra_properties.items():
        if not told["set_of_marks"] or not told["bbox"]:
            continue
        x, y, width, height = told["bbox"]
        if width * height < MIN_AREA:
            continue
        corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        for start, end in zip(corners, (*corners[1:], corners[0]), strict=True):
            _dashed(draw, start, end, linewidth)
        left, top, right, bottom = font.getbbox(bid)
        margin = tag_margin + 1
        size = (int(right - left + 2 * margin), int(bottom - top + 2 * margin))
        tag = Image.new("RGB", size, "black")
        on_tag = ImageDraw.Draw(tag)
        on_tag.text((margin - left, margin - top), bid, font=font, fill="white")
        on_tag.rectangle((0, 0, size[0] - 1, size[1] - 1), outline="white")
        picture.paste(tag, (round(x), round(y - size[1] / 2 + 4)))
    return np.asarray(picture, dtype=np.uint8).copy()


_DASH, _SPACE = 4.0, 8.0


def _dashed(
    draw: "ImageDraw.ImageDraw",
    start: tuple[float, float],
    end: tuple[float, float],
    width: int,
) -> None:
    """A line along one of the axes."""
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    if not length:
        return
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    at = 0.0
    while at < length:
        stop = min(at + _DASH, length)
        points = [round(start[0] + dx * at), round(start[1] + dy * at)]
        points += [round(start[0] + dx * stop), round(start[1] + dy * stop)]
        draw.line(points, fill="black", width=width)
        at += _DASH + _SPACE
