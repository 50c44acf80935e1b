"""A language model, which may read screenshots, says whether an episode reached its goal."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from agentgym.chat import chat_ids
from agentgym.errors import AgentGymError, ConfigError
from agentgym.inference.engine import Engine
from agentgym.models.load import DEFAULT_MODEL, LoadedModel, load_model
from agentgym.types import EndReason, Image, Message, Trajectory, Verdict

_YES, _NO = ("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No")
_AT_ONCE = 64
_ASKED = (
    "You check the work of an agent. Read its goal, what it did, and how things stand at the end. "
    "Did it reach the goal? Answer with one word: yes or no."
)


class YesNo:
    """Scores an episode by a model's probability of yes rather than no: one forward pass each.

    The model reads the goal, the actions, the last observation as text and, if it is a
    vision-language model, the last screenshots. An episode that its environment broke has no
    score, and neither has one whose text or pictures cannot be read; one that ended unjudged has.

    Args:
        model: for `load_model`, or a loaded one.
        screenshots: how many of the last pictures are shown to a model that reads pictures; fewer
            if the episode has fewer.
        observation_chars: how much of the last observation is read.
        dtype: see `load_model`.
        device: see `load_model`.

    Raises:
        ConfigError: a number is negative, the model cannot be loaded, or its tokenizer cannot tell
            yes from no by the first token.
    """

    name = "yes_no"

    def __init__(
        self,
        model: str | LoadedModel = DEFAULT_MODEL,
        *,
        screenshots: int = 1,
        observation_chars: int = 2000,
        dtype: str = "auto",
        device: str = "auto",
    ) -> None:
        if screenshots < 0 or observation_chars < 0:
            raise ConfigError(
                "screenshots and observation_chars must not be negative, got "
                f"{screenshots} and {observation_chars}"
            )
        loaded = load_model(model, dtype=dtype, device=device) if isinstance(model, str) else model
        self.screenshots = screenshots
        self.observation_chars = observation_chars
        self._loaded = loaded
        self._engine = Engine(loaded)
        yes, no = (
            {int(loaded.tokenizer.encode(word, add_special_tokens=False)[0]) for word in words}
            for words in (_YES, _NO)
        )
        self._yes, self._no = sorted(yes - no), sorted(no - yes)
        if not self._yes or not self._no:
            raise ConfigError(f"the tokenizer of {loaded.name!r} cannot tell yes from no")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """One verdict for each trajectory, in order."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="judge") as pool:
            return list(pool.map(self._judge, trajectories))

    def close(self) -> None:
        """Free the model's memory; may be called twice."""
        self._engine.close()

    def _judge(self, trajectory: Trajectory) -> Verdict:
        if not trajectory.end.is_agents and trajectory.end is not EndReason.UNJUDGED:
            return Verdict(None, self.name, trajectory.error or f"ended by {trajectory.end}")
        images = self._last_pictures(trajectory)
        text = self._text(trajectory)
        messages = [
            Message("system", _ASKED),
            Message("user", text, tuple((0, image) for image in images)),
        ]
        try:
            ids = chat_ids(self._loaded.tokenizer, messages, self._loaded.vision)
            chance = self._engine.yes_no(
                np.array(ids, np.int32), self._yes, self._no, images=images
            )
        except AgentGymError as error:
            return Verdict(None, self.name, f"not judged: {error}")
        seen = f" of {len(images)} pictures" if images else ""
        score = round(chance, 4)  # beyond that it is the rounding of a batch
        return Verdict(score, self.name, f"yes with probability {score:g}{seen}")

    def _text(self, trajectory: Trajectory) -> str:
        done = [turn.action or turn.text.strip()[-200:] or "(nothing)" for turn in trajectory.turns]
        last = trajectory.final_observation or (
            trajectory.turns[-1].observation if trajectory.turns else ""
        )
        return (
            f"Goal: {trajectory.task.goal}\nActions: {'; '.join(done) or '(none)'}\n"
            f"At the end:\n{last[: self.observation_chars]}"
        )

    def _last_pictures(self, trajectory: Trajectory) -> list[Image]:
        """The last screenshots, oldest first."""
        if self._loaded.vision is None or not self.screenshots:
            return []
        shown = [*(turn.image for turn in trajectory.turns), trajectory.final_image]
        return [image for image in shown if image is not None][-self.screenshots :]
