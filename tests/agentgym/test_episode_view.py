import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from agentgym.episode_view import (
    MAX_EPISODES,
    MAX_TEXT,
    MAX_TURNS,
    EpisodeView,
    Pictures,
    choose_episodes,
    outcome_of,
    phase_label,
    short_name,
)
from agentgym.images import encode_image
from agentgym.types import NO_TOKENS, EndReason, Image, Task, Trajectory, Turn


def turn(observation: str = "page", **values: object) -> Turn:
    made = Turn(observation, NO_TOKENS, False, None, "click(1)", action="click(1)")
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def episode(
    task: str, seed: int, outcome: float | None, phase: str = "", turns: int = 1
) -> Trajectory:
    end = EndReason.ENV_ERROR if outcome is None else EndReason.TURN_LIMIT
    return Trajectory(
        f"{phase}/{task}/{seed}",
        Task(f"agentgym/{task}-v0", seed, "Do it."),
        tuple(turn(f"page {i}") for i in range(turns)),
        end,
        outcome,
        metadata={"phase": phase},
    )


def ids(trajectories: list[Trajectory]) -> list[str]:
    return [t.id for t in trajectories]


@pytest.mark.parametrize(
    ("outcome", "word"),
    [(None, "unscored"), (0.0, "failure"), (0.5, "partial"), (1.0, "success")],
)
def test_outcomes_in_a_word(outcome: float | None, word: str) -> None:
    assert outcome_of(episode("a", 0, outcome)) == word


def test_names_for_people() -> None:
    assert phase_label("warm-start") == "Warm start"
    assert phase_label("") == "Unnamed"
    assert short_name("agentgym/textworld.coin-collector-v12") == "textworld.coin-collector"
    assert short_name("other/maze-vast") == "maze-vast"
    assert short_name("maze") == "maze"


def test_pairs_share_a_seed_where_there_is_one() -> None:
    before = [episode("a", s, 0.0, "before") for s in (1, 2)] + [episode("b", 3, 0.0, "before")]
    after = [
        episode("a", 1, 0.0, "after"),
        episode("a", 2, 1.0, "after"),
        episode("b", 4, 1.0, "after"),
    ]
    chosen = ids(choose_episodes(before, after, []))
    assert chosen[:4] == ["before/a/2", "after/a/2", "before/b/3", "after/b/4"]
    assert "after/a/1" in chosen, "what still fails is shown too"
    assert len(set(chosen)) == len(chosen)


def test_broken_episodes_and_every_phase_have_a_place() -> None:
    before = [episode("a", s, 0.0, "before") for s in range(20)]
    after = [episode("a", s, 1.0, "after") for s in range(20)] + [episode("a", 99, None, "after")]
    others = [episode("a", i, 1.0, f"iteration-{i}") for i in range(1, 9)]
    chosen = ids(choose_episodes(before, after, others))
    assert "after/a/99" in chosen
    for i in (1, 2, 7, 8):
        assert f"iteration-{i}/a/{i}" in chosen


def test_many_tasks_do_not_make_a_long_page() -> None:
    before = [episode(f"t{i}", 0, 0.0, "before") for i in range(100)]
    after = [episode(f"t{i}", 0, float(i % 2), "after") for i in range(100)]
    assert len(choose_episodes(before, after, [])) <= MAX_EPISODES


def test_a_young_run_shows_what_it_has() -> None:
    won = [episode("a", s, 1.0, "before") for s in range(3)]
    assert ids(choose_episodes(won, [], [])) == ids(won)
    assert choose_episodes([], [], []) == []


def test_long_episodes_and_texts_are_cut_and_say_so() -> None:
    long = episode("a", 0, 0.0, turns=MAX_TURNS + 5)
    long = dataclasses.replace(long, final_observation="x" * (MAX_TEXT + 7), id="a b")
    view = EpisodeView.of(long, Pictures(), run=Path("runs/demo"))
    assert (len(view.turns), view.left_out, view.turn_count) == (MAX_TURNS, 5, MAX_TURNS + 5)
    assert (len(view.final_text), view.final_more) == (MAX_TEXT, 7)
    assert view.command == "agentgym report runs/demo --episode 'a b'"
    whole = EpisodeView.of(long, Pictures(), whole=True)
    assert (len(whole.turns), whole.left_out, whole.final_more) == (MAX_TURNS + 5, 0, 0)


def test_a_page_full_of_text_keeps_the_beginnings() -> None:
    pictures = Pictures(text_left=1000)
    assert pictures.cut("a" * 900) == ("a" * 900, 0)
    assert pictures.cut("b" * 900) == ("b" * 300, 600)


def test_what_stays_as_it_was_is_not_repeated() -> None:
    one, two = noise(4, 4), noise(4, 5)
    turns = (
        turn(image=one, action_error="no element 9"),
        turn(image=one, observation_error="no element 9"),
        turn(image=two, observation_error="something else"),
        turn("other", image=two),
    )
    first, second, third, fourth = EpisodeView.of(
        dataclasses.replace(episode("a", 0, 0.0), turns=turns), Pictures()
    ).turns
    assert [t.same for t in (first, second, third, fourth)] == ["", "page", "text", ""]
    assert [t.text for t in (first, second, third, fourth)] == ["page", "", "", "other"]
    assert (second.picture, fourth.picture) == (None, third.picture)
    assert third.picture is not None
    assert (first.error, second.error_before) == ("no element 9", ""), "said once"
    assert third.error_before == "something else"


def test_what_was_written_is_shown_only_where_it_was_no_action() -> None:
    turns = (turn(thought="hm"), turn(text="gibberish", action="", parsed=False, thought="hm"))
    read, unread = EpisodeView.of(
        dataclasses.replace(episode("a", 0, 0.0), turns=turns), Pictures()
    ).turns
    assert (read.thought, read.action, read.wrote) == ("hm", "click(1)", None)
    assert (unread.thought, unread.action, unread.wrote) == ("", "", "gibberish")


def noise(height: int, width: int) -> Image:
    rng = np.random.default_rng(height * width)
    return encode_image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pictures_are_taken_once_and_from_the_store_if_need_be() -> None:
    image = noise(20, 30)
    asked: list[str] = []

    def load(sha256: str) -> bytes:
        asked.append(sha256)
        assert image.data is not None
        return image.data

    pictures = Pictures(load)
    stored = Image(image.sha256)
    first, again = pictures.take(stored), pictures.take(stored)
    assert first is not None
    assert first == again
    assert (first.width, first.height) == (30, 20)
    assert asked == [image.sha256]
    assert len(pictures.rules) == 1
    assert pictures.take(None) is None


def test_big_pictures_are_made_smaller() -> None:
    image = noise(900, 1600)
    assert image.data is not None
    pictures = Pictures()
    shown = pictures.take(image)
    assert shown is not None
    assert (shown.width, shown.height) == (1600, 900), "the page scales it"
    ((_, uri),) = pictures.rules
    assert uri.startswith("data:image/webp;base64,")
    assert len(uri) < len(image.data) / 4


def test_a_full_page_leaves_pictures_out_and_says_so() -> None:
    pictures = Pictures(left=100)
    assert pictures.take(noise(20, 30)) is None
    assert pictures.sentence == "1 screenshots were left out to keep the page small."


def test_a_damaged_picture_is_lost_not_fatal() -> None:
    pictures = Pictures()
    assert pictures.take(Image("0" * 64, b"no png")) is None
    assert pictures.take(Image("1" * 64)) is None, "there is no store either"
    assert pictures.sentence == "2 screenshots could not be read from the store."


def test_small_pictures_stay_as_they_are() -> None:
    image = noise(20, 30)
    pictures = Pictures()
    pictures.take(image)
    ((_, uri),) = pictures.rules
    import base64

    data = base64.b64decode(uri.partition(",")[2])
    assert data == image.data
    with Pillow.open(io.BytesIO(data)) as picture:
        assert picture.size == (30, 20)
