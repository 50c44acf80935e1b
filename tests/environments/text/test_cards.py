"""Pictures of cards: sizes, colours, every card its own, the formula on the table."""

import numpy as np

from agentgym.environments.text.cards import RANKS, SIZE, SUITS, draw_table

HAND = ("H3", "ST", "DK", "C8")


def test_shape_and_colours() -> None:
    image = draw_table(HAND, "3 + 10")
    assert image.shape == (*SIZE, 3)
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [0x35, 0x65, 0x4D]
    assert image[100, 40].tolist() == [255, 255, 255]  # paper of the first card
    heart, spade = image[143, 39], image[143, 113]  # their middles
    assert heart[0] > 150 > heart[1]
    assert spade.max() < 60


def test_all_52_cards_differ() -> None:
    seen = {
        draw_table((suit + rank, "H2", "H2", "H2"), "").tobytes()
        for suit in SUITS
        for rank in RANKS
    }
    assert len(seen) == 52


def test_formulas_are_drawn_and_long_ones_broken() -> None:
    empty, short = draw_table(HAND, ""), draw_table(HAND, "3 +")
    changed = np.argwhere((empty != short).any(axis=2))
    assert changed[:, 0].min() > 220
    long = draw_table(HAND, " ".join(["10"] * 21))
    assert np.argwhere((empty != long).any(axis=2))[:, 1].max() < 299
    np.testing.assert_array_equal(draw_table(HAND, ""), empty)
