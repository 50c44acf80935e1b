"""Commands: what can only mean one thing is understood, nothing is guessed."""

import pytest

from agentgym.environments.text.commands import resolve, words_of


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("take old key", "take old key from chest"),
        ("TAKE  the Old KEY from the chest", "take old key from chest"),
        ("get old key", "take old key from chest"),
        ("pick up the old key", "take old key from chest"),
        ("take coin", "take coin"),  # the coin on the floor, though a gold coin is near, too
        ("take gold coin", "take gold coin from table"),
        ("n", "go north"),
        ("north", "go north"),
        ("go n", "go north"),
        ("walk to the north", ""),
        ("put the coin in chest", "insert coin into chest"),
        ("x chest", "examine chest"),
        ("look at the chest", "examine chest"),
        ("examine type A locker", "examine type A locker"),
        ("examine locker", "examine type A locker"),
        ("l", "look"),
        ("i", "inventory"),
        ("take", ""),
        ("take key coin", ""),
        ("take all", ""),
        ("key old take", ""),
        ("", ""),
        ("the", ""),
    ],
)
def test_resolve(text: str, meant: str) -> None:
    admissible = [
        "examine chest",
        "examine type A locker",
        "go north",
        "insert coin into chest",
        "inventory",
        "look",
        "take coin",
        "take gold coin from table",
        "take old key from chest",
    ]
    assert resolve(text, admissible) == meant


def test_ambiguous_commands_are_not_guessed() -> None:
    assert resolve("take key", ["take old key", "take new key"]) == ""


def test_words_are_the_engines() -> None:
    assert words_of("Walk N") == ["go", "north"]
    assert words_of("put the Coin inside a chest") == ["insert", "coin", "into", "chest"]
