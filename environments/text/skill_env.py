"""agentgym/textworld.skill-v0: games that train one skill each, by a grammar or a model."""

import logging
from collections.abc import Mapping
from typing import Any

from agentgym.environments.text.skills import IDEAS, sketch_by_player
from agentgym.environments.text.textworld import TextWorldEnv
from agentgym.errors import ConfigError, EnvFailureError
from agentgym.players import Player
from agentgym.seeding import derive

MAX_IDEA = 80
_log = logging.getLogger(__name__)


class SkillEnv(TextWorldEnv):
    """A TextWorld game about an everyday skill, such as boiling water.

    ## Description
    Somebody turns an idea into a sketch: rooms, places, things, and the steps that make up the
    skill (see `skills`). The sketch is compiled by TextWorld, and before anybody plays it its own
    walkthrough must win at its last command and not before. One seed and idea are one game.

    ## Action Space, Observation Space, Episode End
    As `TextWorldEnv`.

    ## Rewards
    Each step of the skill earns its share; all of them sum to 1.

    ## Starting State
    A room of the house. ``reset(options={"idea": ...})`` chooses the skill of one episode.

    ## Arguments
    * `idea`: one of `skills.IDEAS`, or any text if there is a `player`; empty: the seed chooses;
    * `player`: a language model that writes the sketches; without one the grammar does;
    * `fallback`: what happens when the player's answers are no sketch of a game that can be won,
      or TextWorld cannot build it: true lets the grammar sketch the same idea instead (any of its
      ideas, if it does not know this one), with a warning in the log and "grammar" under
      ``diagnostics["sketch_by"]``; false raises `EnvFailureError`;
    * all others: as `TextWorldEnv`.

    ## Version History
    * v0: first.
    """

    def __init__(
        self,
        game: str = "skill",
        *,
        idea: str = "",
        player: Player | None = None,
        fallback: bool = True,
        **arguments: Any,
    ) -> None:
        if game != "skill":
            raise ConfigError(f"SkillEnv plays the game 'skill', got {game!r}; use TextWorldEnv")
        self.player = player
        self.fallback = fallback
        self.idea = idea
        if player is None:
            arguments["idea"] = idea
        super().__init__(game, **arguments)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the game of this seed and idea; see `TextWorldEnv.reset`.

        Raises:
            ConfigError: an option is unknown or wrong.
            EnvFailureError: no game came of it.
        """
        wanted = dict(options or {})
        if self.player is not None:
            self._idea = _checked(wanted.pop("idea", self.idea))
        return super().reset(seed=seed, options=wanted)

    def _start(self, playing: Mapping[str, Any], seed: int) -> None:
        if self.player is None or playing["sketch"]:
            super()._start(playing, seed)
            return
        try:
            sketch = sketch_by_player(self._idea or _any_idea(seed), self.player, seed)
            super()._start({"idea": "", "sketch": sketch.write()}, seed)
            by = self.player.name
        except (EnvFailureError, ConfigError) as error:
            if not self.fallback:
                raise EnvFailureError(f"{self.player.name} gave no game: {error}") from error
            _log.warning("the grammar sketches instead: %s", error)
            super()._start({"idea": _known(self._idea), "sketch": ""}, seed)
            by = "grammar"
        self.diagnostics["sketch_by"] = by


def _checked(idea: Any) -> str:
    if not isinstance(idea, str) or len(idea) > MAX_IDEA or not idea.isprintable():
        raise ConfigError(f"idea must be a line of at most {MAX_IDEA} characters, got {idea!r:.90}")
    return idea


def _known(idea: str) -> str:
    """The idea if the grammar knows it, else empty: any."""
    return idea if idea in IDEAS else ""


def _any_idea(seed: int) -> str:
    return IDEAS[derive(seed, "idea") % len(IDEAS)]
