"""Wordle: marks worked out by hand, both modes' rules, the expert."""

import random
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.wordle import (
    TRIES,
    Vocabulary,
    WordleEnv,
    feedback,
    uncounted_feedback,
    vocabulary,
    words,
)
from agentgym.errors import ConfigError
from agentgym.forks import fork

# guess, word, marks that count letters, marks that do not; each worked out by hand.
MARKS = [
    ("stare", "stare", "ggggg", "ggggg"),
    ("stare", "crane", "bbgyg", "bbgyg"),
    ("allee", "apple", "gybbg", "gyyyg"),  # one l and one more e: the second ones find none left
    ("speed", "erase", "ybyyb", "ybyyb"),  # two e in both
    ("speed", "abide", "bbyby", "bbyyy"),  # one e: the first is marked, the second is not
    ("geese", "these", "bbggg", "byggg"),  # both e of the word are at their places
    ("eerie", "there", "ybybg", "yyybg"),  # e at the end is right, one is left for the first
    ("mamma", "maxim", "ggybb", "ggyyy"),  # two m: one right, one left for the third place
    ("lolly", "hello", "byggb", "yyggb"),  # two l, both right: none is left for the first place
    ("fuzzy", "crane", "bbbbb", "bbbbb"),
]


def made(word: str = "", **arguments: Any) -> WordleEnv:
    env = WordleEnv(**arguments)
    env.reset(seed=0, options={"word": word} if word else None)
    return env


@pytest.mark.parametrize(("word", "target", "counted", "uncounted"), MARKS)
def test_marks(word: str, target: str, counted: str, uncounted: str) -> None:
    assert feedback(word, target) == counted
    assert uncounted_feedback(word, target) == uncounted


def test_the_published_list_sizes() -> None:
    assert (len(words("answers")), len(words("all"))) == (2315, 12972)
    assert set(words("answers")) < set(words("all"))
    assert all(len(w) == 5 and w.isascii() and w.islower() for w in words("all"))


def test_golden_transcript() -> None:
    env = made("crane")
    observation, reward, terminated, _, info = env.step("s t a r e")
    assert observation["text"] == "Wordle:\ns t a r e\nb b g y g"
    assert (reward, terminated, info["tries_left"]) == (-1.0, False, 5)
    observation, reward, terminated, _, info = env.step("CRANE")
    assert observation["text"] == "Wordle:\ns t a r e\nb b g y g\nc r a n e\ng g g g g"
    assert (reward, terminated, info["success"]) == (0.0, True, True)


def test_six_tries_lose_and_the_word_is_told() -> None:
    env = made("crane")
    for _ in range(5):
        assert env.step("fuzzy")[1:4] == (-1.0, False, False)
    observation, reward, terminated, _, info = env.step("fuzzy")
    assert (reward, terminated, info["success"]) == (-1.0, True, False)
    assert observation["text"].endswith("b b b b b\nThe word was c r a n e.")


@pytest.mark.parametrize("text", ["", "stares", "star", "zzzzz", "s.t.a.r.e", "x" * 10_000, "\0"])
def test_what_is_no_word_costs_a_turn_and_no_try(text: str) -> None:
    env = made("crane")
    env.step("stare")
    observation, reward, terminated, _, info = env.step(text)
    assert observation["text"] == "Wordle:\ns t a r e\nb b g y g"
    assert observation["error"]
    assert len(observation["error"]) < 200
    assert (reward, terminated, info["tries_left"]) == (-1.0, False, 5)


def test_turns_that_are_no_tries_are_limited() -> None:
    env = gym.make("agentgym/wordle-v0")
    env.reset(seed=0)
    assert [env.step("zzzzz")[2:4] for _ in range(12)] == [(False, False)] * 11 + [(False, True)]


def test_golden_transcript_of_the_original() -> None:
    env = WordleEnv(mode="original", bad_word_reward=-2.0)
    observation, _ = env.reset(seed=0)
    assert observation["text"] == "Wordle:\n"
    observation, reward, terminated, _, info = env.step("z z z z z\n")
    assert (observation["text"], reward, terminated, info["tries_left"]) == ("\n", -2.0, False, 5)
    observation, reward, _, _, info = env.step("STARE")  # capitals are no words there
    assert (observation["text"], reward, info["tries_left"]) == ("\n", -2.0, 4)
    observation, reward, _, _, info = env.step("s t a r e\n")
    assert observation["text"] == f"{' '.join(uncounted_feedback('stare', env.target))}\n"
    assert (reward, info["tries_left"]) == (-1.0, 3)
    for _ in range(2):
        env.step("")
    observation, reward, terminated, _, info = env.step("")
    assert (observation["text"], reward, terminated) == ("\n", -2.0, True)
    assert info["success"] is False


def test_the_originals_word_changes_but_fits_all_marks() -> None:
    env = WordleEnv(mode="original")
    changed = 0
    for seed in range(30):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        targets = set()
        terminated = False
        while not terminated:
            terminated = env.step(env.action_space.sample())[2]
            targets.add(env.target)
            for word, marks in env.guessed:
                assert uncounted_feedback(word, env.target) == marks
        changed += len(targets) > 1
    assert changed > 20


def test_one_word_may_be_guessed_outside_the_targets_only_when_fixed() -> None:
    assert made("crane").step("aahed")[4]["action_error"] == ""
    assert WordleEnv(mode="original", targets="all").action_space is not None
    original = WordleEnv(mode="original")
    original.reset(seed=0)
    assert original.step("aahed")[4]["action_error"]


@pytest.mark.parametrize("counted", [True, False])
def test_sets_of_words_are_what_filtering_one_by_one_gives(counted: bool) -> None:
    mark = feedback if counted else uncounted_feedback
    known = vocabulary("answers", counted)
    rng = random.Random(0)
    for _ in range(20):
        word, target = rng.choice(words("all")), rng.choice(known.words)
        found = known.members(known.consistent(word, mark(word, target)))
        assert [known.words[i] for i in found] == [
            other for other in known.words if mark(word, other) == mark(word, target)
        ]


@pytest.mark.parametrize("counted", [True, False])
def test_patterns_are_the_marks_as_numbers(counted: bool) -> None:
    mark = feedback if counted else uncounted_feedback
    known = Vocabulary(("allee", "apple", "erase", "geese", "mamma", "maxim", "speed"), counted)
    every = known.members(known.everything)
    assert every.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert known.patterns(every, every).tolist() == [
        [int(mark(a, b).translate(str.maketrans("byg", "012")), 3) for b in known.words]
        for a in known.words
    ]


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_the_expert_finds_the_word(mode: str) -> None:
    env = WordleEnv(mode=mode)
    tries = []
    for seed in range(40):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            *_, terminated, _, info = env.step(env.oracle_action())
        assert info["success"]
        tries.append(TRIES - info["tries_left"])
    assert sum(tries) / len(tries) < 4


def test_an_action_space_with_the_games_seed_does_not_know_the_word() -> None:
    env = WordleEnv()
    for seed in range(20):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(TRIES):
            assert not env.step(env.action_space.sample())[4].get("success")


def test_words_follow_the_seed() -> None:
    env = WordleEnv()

    def drawn() -> list[str]:
        found = []
        for seed in range(50):
            env.reset(seed=seed)
            found.append(env.target)
        return found

    first = drawn()
    assert first == drawn()
    assert len(set(first)) > 45


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_a_forked_game_goes_on_like_the_first(mode: str) -> None:
    env = gym.make("agentgym/wordle-v0", mode=mode)
    env.reset(seed=1)
    for action in ("stare", "nonsense", "cloud"):
        env.step(action)
    copy = fork(env)
    for action in ("fuzzy", ""):
        assert copy.step(action) == env.step(action)
    assert copy.unwrapped.oracle_action() == env.unwrapped.oracle_action()  # type: ignore[attr-defined]


def test_wrong_arguments_and_options() -> None:
    with pytest.raises(ConfigError, match="targets must be one of"):
        WordleEnv("swahili")
    with pytest.raises(ConfigError, match="must not be above 0"):
        WordleEnv(mode="original", bad_word_reward=1.0)
    with pytest.raises(ConfigError, match="the only option is 'word'"):
        WordleEnv().reset(seed=0, options={"target": "crane"})
    with pytest.raises(ConfigError, match="not in the list of targets"):
        WordleEnv().reset(seed=0, options={"word": "aahed"})
    with pytest.raises(ConfigError, match="takes no options"):
        WordleEnv(mode="original").reset(seed=0, options={"word": "crane"})
