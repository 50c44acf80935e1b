"""Episodes as a reader sees them: which to show, and every turn as text and a picture."""

import base64
import io
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as Pillow

from agentgym.charts import number
from agentgym.errors import StoreError
from agentgym.types import EndReason, Image, Trajectory, Turn

MAX_EPISODES = 30
MAX_TURNS = 30
"""Of one episode."""
MAX_TEXT = 6_000
"""Characters of one text."""
MAX_PICTURES = 1_800_000
"""Bytes of all pictures of a page, as text."""
MAX_ALL_TEXT = 700_000
"""Characters of all observations of a page."""
PICTURE_WIDTH = 640
"""Wider pictures, and files of more than `PICTURE_FILE` bytes, are written again, smaller."""
PICTURE_FILE = 40_000

_ENDS = {
    EndReason.SUCCESS: "The agent did what was asked.",
    EndReason.FAILURE: "The environment ended the episode without success.",
    EndReason.UNJUDGED: "The agent ended the episode; only a judge can tell how well.",
    EndReason.TURN_LIMIT: "The agent used all its turns.",
    EndReason.TOKEN_LIMIT: "The conversation reached the token budget.",
}


def phase_label(phase: str) -> str:
    """The name of a phase for people.

    Example:
        >>> phase_label("eval-before"), phase_label("iteration-2"), phase_label("eval-4")
        ('Evaluation before', 'Iteration 2', 'Evaluation 4')
    """
    words = phase.replace("-", " ").replace("_", " ").strip() or "Unnamed"
    words = words.replace("eval ", "evaluation ", 1) if words.startswith("eval ") else words
    return words[0].upper() + words[1:]


def short_name(env_id: str) -> str:
    """An environment id without its namespace and version.

    Example:
        >>> short_name("agentgym/miniwob.click-test-v0")
        'miniwob.click-test'
    """
    name = env_id.rsplit("/", 1)[-1]
    stem, dash, version = name.rpartition("-")
    return stem if dash and version[:1] == "v" and version[1:].isdigit() else name


def outcome_of(trajectory: Trajectory) -> str:
    """One word: success, failure, partial or unscored."""
    if trajectory.outcome is None:
        return "unscored"
    if trajectory.success:
        return "success"
    return "partial" if trajectory.outcome > 0 else "failure"


@dataclass(frozen=True)
class Picture:
    """A picture on the page: the name of its CSS class and its size there, in CSS pixels."""

    name: str
    width: int
    height: int


@dataclass
class Pictures:
    """The pictures of a page: each once, however many turns show it, up to a limit.

    They are CSS classes, because a class can be used many times and its bytes stand once.
    """

    load: Callable[[str], bytes] | None = None
    """The PNG file of a sha256."""
    left: int = MAX_PICTURES
    """Bytes that may still be used."""
    text_left: int = MAX_ALL_TEXT
    """Characters of text that may still be used."""
    rules: list[tuple[str, str]] = field(default_factory=list)
    """(class name, data URI)"""
    left_out: int = 0
    lost: int = 0
    _known: dict[str, Picture | None] = field(default_factory=dict)

    def take(self, image: Image | None) -> Picture | None:
        """The picture of an image; `None` if there is none, it is lost, or the page is full."""
        if image is None:
            return None
        if image.sha256 not in self._known:
            self._known[image.sha256] = self._add(image)
        return self._known[image.sha256]

    def _add(self, image: Image) -> Picture | None:
        try:
            data = image.data
            if data is None:
                if self.load is None:
                    raise StoreError("there is no store to read pictures from")
                data = self.load(image.sha256)
            encoded, kind, width, height = _encode(data)
        except (StoreError, OSError):  # a report of what is left is better than none
            self.lost += 1
            return None
        if len(encoded) > self.left:
            self.left_out += 1
            return None
        self.left -= len(encoded)
        picture = Picture(f"i{len(self.rules)}", width, height)
        self.rules.append((picture.name, f"data:image/{kind};base64,{encoded}"))
        return picture

    def cut(self, text: str, *, whole: bool = False) -> tuple[str, int]:
        """A text as far as there is room, and how many characters are left out."""
        limit = len(text) if whole else min(MAX_TEXT, max(300, self.text_left))
        self.text_left -= min(limit, len(text))
        return text[:limit], max(0, len(text) - limit)

    @property
    def sentence(self) -> str:
        """What is not there; empty if all is."""
        parts = []
        if self.left_out:
            parts.append(f"{self.left_out} screenshots were left out to keep the page small.")
        if self.lost:
            parts.append(f"{self.lost} screenshots could not be read from the store.")
        return " ".join(parts)


def _encode(png: bytes) -> tuple[str, str, int, int]:
    """Base64 text, image type, and the size to show; big pictures are made smaller."""
    with Pillow.open(io.BytesIO(png)) as picture:
        width, height = picture.size
        kind = (picture.format or "png").lower()
        if width > PICTURE_WIDTH or len(png) > PICTURE_FILE:
            small = picture.convert("RGB")
            small.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=75)
            png, kind = buffer.getvalue(), "webp"
    return base64.b64encode(png).decode("ascii"), kind, width, height


@dataclass(frozen=True)
class TurnView:
    """One turn as it is read."""

    number: int
    picture: Picture | None
    text: str
    more: int
    """Characters of `text` left out."""
    same: str
    """What is as in the turn before, and so not shown again: "text", "page" (text and picture)
    or nothing."""
    error_before: str
    """What the agent was told, unless the turn before says it."""
    thought: str
    action: str
    wrote: str | None
    """What the model wrote, where that was no action."""
    error: str
    reward: str
    tokens: int | None


@dataclass(frozen=True)
class EpisodeView:
    """One episode as it is read."""

    id: str
    anchor: str
    task: str
    env_id: str
    seed: int
    phase: str
    outcome: str
    goal: str
    reward: str
    turn_count: int
    turns: Sequence[TurnView]
    left_out: int
    """Turns not shown."""
    end: str
    verdict: str
    error: str
    who: str
    final_text: str
    final_more: int
    final_error: str
    final_picture: Picture | None
    command: str

    @classmethod
    def of(
        cls,
        trajectory: Trajectory,
        pictures: Pictures,
        *,
        run: Path = Path(),
        anchor: str = "episode",
        whole: bool = False,
    ) -> "EpisodeView":
        """The view of a trajectory.

        Args:
            trajectory: what happened.
            pictures: of the page.
            run: folder named in the command that shows the whole episode.
            anchor: id of the element on the page.
            whole: all turns and all text.
        """
        shown = trajectory.turns if whole else trajectory.turns[:MAX_TURNS]
        final_text, final_more = pictures.cut(trajectory.final_observation, whole=whole)
        task = trajectory.task
        return cls(
            id=trajectory.id,
            anchor=anchor,
            task=short_name(task.env_id),
            env_id=task.env_id,
            seed=task.seed,
            phase=phase_label(str(trajectory.metadata.get("phase", ""))),
            outcome=outcome_of(trajectory),
            goal=task.goal,
            reward=number(trajectory.reward),
            turn_count=len(trajectory.turns),
            turns=[
                _turn(i, turn, shown[i - 2] if i > 1 else None, pictures, whole)
                for i, turn in enumerate(shown, start=1)
            ],
            left_out=len(trajectory.turns) - len(shown),
            end=trajectory.end.value.replace("_", " "),
            verdict=_verdict(trajectory),
            error=trajectory.error,
            who=" ".join(filter(None, (trajectory.source.value, trajectory.policy))),
            final_text=final_text,
            final_more=final_more,
            final_error=trajectory.final_error,
            final_picture=pictures.take(trajectory.final_image),
            command=shlex.join(["agentgym", "report", str(run), "--episode", trajectory.id]),
        )


def _turn(index: int, turn: Turn, before: Turn | None, pictures: Pictures, whole: bool) -> TurnView:
    unchanged = before is not None and turn.observation == before.observation
    still = unchanged and before is not None and turn.image == before.image
    told = before is not None and turn.observation_error == before.action_error
    as_read = bool(turn.action) and turn.parsed
    text, more = ("", 0) if unchanged else pictures.cut(turn.observation, whole=whole)
    return TurnView(
        number=index,
        picture=None if still else pictures.take(turn.image),
        text=text,
        more=more,
        same="" if not unchanged else "page" if still and turn.image else "text",
        error_before="" if told else turn.observation_error,
        thought=turn.thought if as_read else "",
        action=turn.action,
        wrote=None if as_read else pictures.cut(turn.text, whole=whole)[0],
        error=turn.action_error,
        reward=number(turn.reward),
        tokens=None if turn.action_ids is None else len(turn.action_ids),
    )


def _verdict(trajectory: Trajectory) -> str:
    why = _ENDS.get(trajectory.end, "The episode was cut; the agent does not answer for that.")
    scored = (
        "It has no score."
        if trajectory.outcome is None
        else f"Outcome {number(trajectory.outcome)}, sum of rewards {number(trajectory.reward)}."
    )
    return f"{why} {scored}"


def choose_episodes(
    before: Iterable[Trajectory], after: Iterable[Trajectory], others: Iterable[Trajectory]
) -> list[Trajectory]:
    """The episodes worth reading: for each task what failed before and succeeds after, then more.

    Args:
        before: the evaluation before training.
        after: the evaluation after training.
        others: episodes of other phases, few of each.

    Returns:
        At most `MAX_EPISODES`; a task's failure and success on the same seed, where there are such,
        stand next to each other.
    """
    first, last, others = list(before), list(after), list(others)
    chosen: list[Trajectory] = []
    for env_id in dict.fromkeys(t.task.env_id for t in [*first, *last]):
        failed = {t.task.seed: t for t in first if t.task.env_id == env_id and _failed(t)}
        won = {t.task.seed: t for t in last if t.task.env_id == env_id and t.success}
        both = [seed for seed in failed if seed in won]
        chosen += [failed[s] for s in both[:1]] or list(failed.values())[:1]
        chosen += [won[s] for s in both[:1]] or list(won.values())[:1]
    chosen = chosen[: MAX_EPISODES - 8]
    more = [
        *_first(4, (t for t in last if _failed(t))),
        *_first(2, (t for t in [*last, *first, *others] if t.outcome is None)),
        *_one_per_phase(others),
    ]
    chosen += [t for t in more if not any(t is c for c in chosen)]
    for t in [*others, *last, *first]:  # a young run has few of the above
        if len(chosen) >= min(MAX_EPISODES, 8):
            break
        if not any(t is c for c in chosen):
            chosen.append(t)
    return chosen


def _failed(trajectory: Trajectory) -> bool:
    return trajectory.outcome is not None and not trajectory.success


def _one_per_phase(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """The first of each phase; of more than four phases the first two and the last two."""
    first: dict[str, Trajectory] = {}
    for trajectory in trajectories:
        first.setdefault(str(trajectory.metadata.get("phase", "")), trajectory)
    found = list(first.values())
    return found if len(found) <= 4 else [*found[:2], *found[-2:]]


def _first(count: int, trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """The first of each task and outcome, at most so many."""
    found: dict[tuple[str, str], Trajectory] = {}
    for trajectory in trajectories:
        found.setdefault((trajectory.task.env_id, outcome_of(trajectory)), trajectory)
    return list(found.values())[:count]
