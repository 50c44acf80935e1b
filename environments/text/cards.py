"""Pictures of playing cards, drawn without any file: no system font, no image."""

from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from agentgym.types import ImageArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

SIZE = (300, 300)
"""(H, W) of the table's picture, as in gym_cards."""
SUITS = {"H": "#c22", "D": "#c22", "S": "#111", "C": "#111"}
RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "T", "J", "Q", "K")
_GREEN = "#35654d"
_CARD = (67, 94)  # (W, H)
_FINE = 4  # cards are drawn so many times larger, then made smaller: smooth edges


def draw_table(cards: tuple[str, ...], formula: str) -> ImageArray:
    """Four cards in a row and the formula below them.

    Args:
        cards: suit and rank each, e.g. "H3", "ST" (a ten), "DK".
        formula: any text; long ones are broken into lines.

    Returns:
        (300, 300, 3) uint8.
    """
    from PIL import ImageDraw

    table = _row(cards).copy()
    draw = ImageDraw.Draw(table)
    for number, line in enumerate(_lines(formula, 28)):
        draw.text((10, 232 + 20 * number), line, fill="white", font=_font(16))
    return np.array(table)


def _lines(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[-3:]


@cache
def _font(size: int) -> "FreeTypeFont | ImageFont":
    """Pillow's own font; reading it takes longer than drawing with it."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


@lru_cache(64)
def _row(cards: tuple[str, ...]) -> "Image":
    from PIL import Image, ImageDraw

    table = Image.new("RGB", (SIZE[1], SIZE[0]), _GREEN)
    for place, card in enumerate(cards):
        table.paste(_card(card), (6 + place * 74, 96))
    ImageDraw.Draw(table).text((10, 208), "Formula:", fill="white", font=_font(16))
    return table


@lru_cache(52)
def _card(card: str) -> "Image":
    from PIL import Image, ImageDraw

    width, height = _CARD[0] * _FINE, _CARD[1] * _FINE
    image = Image.new("RGB", (width, height), _GREEN)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), 6 * _FINE, "white", "#777", _FINE)
    suit, rank = card[0], {"T": "10"}.get(card[1:], card[1:])
    for turn in (0, 180):
        draw.text((6 * _FINE, 1 * _FINE), rank, fill=SUITS[suit], font=_font(26 * _FINE))
        if not turn:
            image = image.rotate(180)
            draw = ImageDraw.Draw(image)
    _pip(draw, suit, width // 2, height // 2, 14 * _FINE)
    return image.resize(_CARD, Image.Resampling.LANCZOS)


def _pip(draw: "ImageDraw", suit: str, x: int, y: int, r: int) -> None:
    """The sign of a suit around (x, y), 2 r high."""

    def disc(dx: float, dy: float, size: float) -> None:
        draw.ellipse(
            (x + (dx - size) * r, y + (dy - size) * r, x + (dx + size) * r, y + (dy + size) * r),
            SUITS[suit],
        )

    def shape(*corners: tuple[float, float]) -> None:
        draw.polygon([(x + dx * r, y + dy * r) for dx, dy in corners], SUITS[suit])

    if suit == "D":
        shape((0, -1), (0.75, 0), (0, 1), (-0.75, 0))
    elif suit == "H":
        disc(-0.45, -0.4, 0.5)
        disc(0.45, -0.4, 0.5)
        shape((-0.91, -0.2), (0.91, -0.2), (0, 1))
    elif suit == "S":
        disc(-0.45, 0.25, 0.48)
        disc(0.45, 0.25, 0.48)
        shape((-0.89, 0.05), (0.89, 0.05), (0, -1))
        shape((0, 0.1), (0.3, 1), (-0.3, 1))
    else:
        disc(0, -0.5, 0.46)
        disc(-0.5, 0.2, 0.46)
        disc(0.5, 0.2, 0.46)
        shape((0, -0.4), (0.3, 1), (-0.3, 1))
