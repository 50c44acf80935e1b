"""The questions that an evaluation leaves open, put to a judge: after the episode, never inside it.

A judge is any `agentgym.players.Player`: a language model, or a script. Instructions are our own;
which words of a reply count is as in WebArena and VisualWebArena.
"""

import base64
import hashlib
import io
from collections.abc import Mapping
from typing import Any

from agentgym.environments.web.webarena.evaluation import Evaluation, Question
from agentgym.environments.web.webarena.pictures import opened
from agentgym.errors import EnvFailureError
from agentgym.players import Player, PlayerTurn, ask
from agentgym.seeding import derive
from agentgym.types import Image, Message

_INSTRUCTIONS = {
    "same_meaning": "You grade answers. You get a question, the right answer and somebody's own. "
    "Other words for the same thing are fine; 'N/A' in the right answer means that the task cannot "
    "be done. Think briefly, then end with one of: correct, incorrect, partially correct.",
    "same_reason": "You compare reasons. A task cannot be done. You get the task, the true reason "
    "why, and what somebody said about it. Does it give the true reason, in whatever words? End "
    "with one of: same, different.",
    "in_pictures": "You look at pictures. You get a question and one or several pictures, and "
    "answer for all of them together: does the expected answer hold for at least one? End with one "
    "of: yes, no.",
}


def read_reply(kind: str, reply: str) -> bool | None:
    """What a judge's reply says; None if it says nothing.

    Example:
        >>> [read_reply("same_meaning", r) for r in ("Correct.", "Partially correct", "Hm")]
        [True, False, None]
    """
    said = reply.lower()
    if kind == "same_meaning":
        if "partially correct" in said or "incorrect" in said:
            return False
        return True if "correct" in said else None
    if kind == "same_reason":
        if "different" in said:
            return False
        return True if "same" in said else None
    words = said.replace(".", " ").replace(",", " ").replace("*", " ").split()
    last = next((word for word in reversed(words) if word in ("yes", "no")), "")
    return None if not last else last == "yes"


def turn_of(question: Question, seed: int = 0) -> PlayerTurn:
    """A question as a player is asked it."""
    if question.kind == "in_pictures":
        text = f"Question: {question.task}\nExpected answer: {question.reference}\nPictures:\n"
    elif question.kind == "same_reason":
        text = f"Task: {question.task}\nTrue reason: {question.reference}\nSaid: {question.answer}"
    else:
        text = (
            f"Question: {question.task}\nRight answer: {question.reference}\n"
            f"Answer: {question.answer}"
        )
    images = tuple((len(text), _image(url)) for url in question.pictures)
    facts = {
        "kind": question.kind,
        "task": question.task,
        "reference": question.reference,
        "answer": question.answer,
    }
    message = Message("user", text, images)
    return PlayerTurn("judge", _INSTRUCTIONS[question.kind], (message,), facts, seed)


def _image(url: str) -> Image:
    out = io.BytesIO()
    opened(base64.b64decode(url.partition(",")[2])).save(out, "PNG")
    return Image(hashlib.sha256(out.getvalue()).hexdigest(), out.getvalue())


def judged(
    evaluation: Evaluation | Mapping[str, Any], judge: Player, *, seed: int = 0, attempts: int = 3
) -> Evaluation:
    """An evaluation with its open questions answered; where the judge cannot tell they stay open.

    Args:
        evaluation: of an episode, or ``info["evaluation"]`` of its last step.
        judge: who is asked.
        seed: of the judge's own chance.
        attempts: how often a question is asked until the reply says something.

    Raises:
        ConfigError: it is no evaluation, or the judge is not set up to answer.
    """
    if not isinstance(evaluation, Evaluation):
        evaluation = Evaluation.of_json(evaluation)
    verdicts: list[bool | None] = []
    for index, question in enumerate(evaluation.questions):
        turn = turn_of(question, derive(seed, "question", index))

        def read(reply: str, kind: str = question.kind) -> bool | None:
            return read_reply(kind, reply)

        try:
            verdicts.append(ask(judge, turn, read, attempts))
        except EnvFailureError:
            verdicts.append(None)
    return evaluation.judged(verdicts)
