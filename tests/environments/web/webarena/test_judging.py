import io
import json

import numpy as np
import pytest
from PIL import Image

from agentgym.environments.web.webarena.evaluation import Evaluation, Factor, Question
from agentgym.environments.web.webarena.judging import judged, read_reply, turn_of
from agentgym.environments.web.webarena.pictures import data_url
from agentgym.errors import ConfigError
from agentgym.players import PlayerTurn

MEANING = Question("same_meaning", "When does it close?", "5 pm", "17:00")
REASON = Question("same_reason", "Buy it.", "no shop sells it", "no such shop")


class Judge:
    name = "judge"

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.turns: list[PlayerTurn] = []

    def answer(self, turn: PlayerTurn) -> str:
        self.turns.append(turn)
        return self.replies[min(len(self.turns), len(self.replies)) - 1]


def open_evaluation(*questions: Question) -> Evaluation:
    return Evaluation(tuple(Factor(f"f[{i}]", None, "", q) for i, q in enumerate(questions)))


@pytest.mark.parametrize(
    ("kind", "reply", "verdict"),
    [
        ("same_meaning", "Partially correct", False),
        ("same_meaning", "The answer is incorrect", False),
        ("same_meaning", "Correct.", True),
        ("same_meaning", "I like it", None),
        ("same_reason", "They are the same.", True),
        ("same_reason", "Not the same: DIFFERENT", False),
        ("same_reason", "", None),
        ("in_pictures", "No dog in the first, but a dog in the second. Yes.", True),
        ("in_pictures", "Yes? **No**", False),
        ("in_pictures", "Nobody knows", None),
    ],
)
def test_which_words_count(kind: str, reply: str, verdict: bool | None) -> None:
    assert read_reply(kind, reply) is verdict


def test_questions_are_asked_once_each_and_in_order() -> None:
    judge = Judge("correct", "different")
    evaluation = judged(open_evaluation(MEANING, REASON), judge)
    assert [factor.value for factor in evaluation.factors] == [1.0, 0.0]
    assert evaluation.score == 0.0
    first, second = judge.turns
    for part in ("When does it close?", "5 pm", "17:00"):
        assert part in first.messages[0].content
    assert "no shop sells it" in second.messages[0].content
    assert first.seed != second.seed


def test_what_a_judge_cannot_tell_stays_open() -> None:
    judge = Judge("hm")
    evaluation = judged(open_evaluation(MEANING), judge, attempts=2)
    assert (evaluation.score, len(judge.turns)) == (None, 2)
    retried = Judge("hm", "correct")
    assert judged(open_evaluation(MEANING), retried).score == 1.0


def test_an_episodes_info_is_enough() -> None:
    fixed = Factor("string_match.must_include[0]", 1.0, "5")
    whole = Evaluation((fixed, *open_evaluation(MEANING).factors))
    told = json.loads(json.dumps(whole.to_json()))
    assert Evaluation.of_json(told) == whole
    assert judged(told, Judge("correct")).score == 1.0
    closed = Evaluation((fixed,)).to_json()
    assert judged(closed, Judge()).score == 1.0
    for wrong in ({}, {"factors": 1, "questions": []}, {**told, "questions": []}):
        with pytest.raises(ConfigError, match="is no evaluation"):
            judged(wrong, Judge())


def test_pictures_are_shown() -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(out, "PNG")
    url = data_url(out.getvalue())
    turn = turn_of(Question("in_pictures", "Is it black?", "yes", "", (url, url)))
    (message,) = turn.messages
    assert "Is it black?" in message.content
    assert [len(part.data or b"") > 50 for _, part in message.images] == [True, True]
    assert message.images[0][1].sha256 == message.images[1][1].sha256
