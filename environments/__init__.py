"""Environments: one folder a domain, one file an environment. Registers ids as strings only."""

from typing import Any

import gymnasium as gym

from agentgym.environments.web.miniwob_tasks import TASKS as _MINIWOB_TASKS
from agentgym.registry import BENCHMARKS, EXPECTATIONS

if __name__ != "agentgym.environments":
    raise ImportError("import agentgym.environments, not the bare folder name 'environments'")

_TEXTWORLD_STEPS = {
    "coin_collector": 50,
    "cooking": 100,
    "custom": 50,
    "simple": 50,
    "skill": 60,
    "treasure_hunter": 50,
}

# Games in pure Python: id, module under environments/text, class, arguments, turns.
_GAMES: tuple[tuple[str, str, str, dict[str, Any], int], ...] = (
    ("breakthrough", "breakthrough", "BreakthroughEnv", {}, 60),
    (
        "breakthrough.alphabeta",
        "breakthrough",
        "BreakthroughEnv",
        {"opponent": "alphabeta", "role": "white"},
        60,
    ),
    ("chess", "chess", "ChessEnv", {}, 400),
    ("chess.original", "chess", "ChessEnv", {"mode": "original"}, 402),
    ("chess_endgames", "chess", "ChessEndgamesEnv", {}, 400),
    ("maze", "maze", "MazeEnv", {}, 100),
    ("maze.medium", "maze", "MazeEnv", {"layout": "medium"}, 100),
    ("maze.random", "maze", "MazeEnv", {"layout": "random"}, 100),
    ("maze.original", "maze", "MazeEnv", {"mode": "original"}, 102),
    ("car_dealer", "car_dealer", "CarDealerEnv", {}, 50),
    ("guess_my_city", "guess_my_city", "GuessMyCityEnv", {}, 40),
    ("twenty_questions", "twenty_questions", "TwentyQuestionsEnv", {}, 40),
    (
        "twenty_questions.original",
        "twenty_questions",
        "TwentyQuestionsEnv",
        {"mode": "original"},
        40,
    ),
    ("tic_tac_toe", "tic_tac_toe", "TicTacToeEnv", {}, 20),
    ("wordle", "wordle", "WordleEnv", {}, 12),
    ("wordle.original", "wordle", "WordleEnv", {"mode": "original"}, 12),
    ("countdown", "countdown", "CountdownEnv", {}, 12),
    ("countdown.original", "countdown", "CountdownEnv", {"mode": "original"}, 12),
    ("countdown.answer", "countdown", "CountdownEnv", {"style": "answer"}, 2),
    ("points24", "points24", "Points24Env", {}, 30),
    ("points24.original", "points24", "Points24Env", {"mode": "original"}, 300),
    ("household", "household", "HouseholdEnv", {}, 50),
    ("household.original", "household", "HouseholdEnv", {"mode": "original"}, 50),
    ("text_nav", "text_nav", "TextNavEnv", {}, 15),
    ("text_nav.original", "text_nav", "TextNavEnv", {"mode": "original"}, 15),
)


def register() -> None:
    """Register every environment id with Gymnasium; imports no environment, may be called again."""
    _register_miniwob()
    _register_browsing()
    _register_textworld()
    _register_games()
    _register_benchmarks()
    EXPECTATIONS.register("agentgym", "agentgym.environments.expectations:EXPECTATIONS")


def _register(id: str, **spec: Any) -> None:
    if id not in gym.registry:  # Gymnasium warns when an id is given twice
        gym.register(id=id, **spec)


def _register_miniwob() -> None:
    for task in _MINIWOB_TASKS:
        _register(
            id=f"agentgym/miniwob.{task}-v0",
            entry_point="agentgym.environments.web.miniwob:MiniWobEnv",
            kwargs={"task": task},
            max_episode_steps=10,
        )
        _register(
            id=f"agentgym/browsergym.miniwob.{task}-v0",
            entry_point="agentgym.environments.web.browsergym:BrowserGymMiniWob",
            kwargs={"task": task},
            max_episode_steps=10,
        )


def _register_browsing() -> None:
    _register(
        id="agentgym/web.open-v0",
        entry_point="agentgym.environments.web.open:OpenWebEnv",
        max_episode_steps=30,
    )
    _register(
        id="agentgym/webarena-v0",
        entry_point="agentgym.environments.web.webarena.environment:WebArenaEnv",
        max_episode_steps=30,
    )
    _register(
        id="agentgym/browsergym.openended-v0",
        entry_point="agentgym.environments.web.browsergym_sites:BrowserGymOpenEnded",
        max_episode_steps=30,
    )
    _register(
        id="agentgym/browsergym.webarena-v0",
        entry_point="agentgym.environments.web.browsergym_sites:BrowserGymWebArena",
        max_episode_steps=30,
    )


def _register_textworld() -> None:
    for game, steps in _TEXTWORLD_STEPS.items():
        _register(
            id=f"agentgym/textworld.{game}-v0",
            entry_point="agentgym.environments.text.textworld:TextWorldEnv"
            if game != "skill"
            else "agentgym.environments.text.skill_env:SkillEnv",
            kwargs={"game": game},
            max_episode_steps=steps,
        )


def _register_games() -> None:
    for name, module, kind, arguments, steps in _GAMES:
        _register(
            id=f"agentgym/{name}-v0",
            entry_point=f"agentgym.environments.text.{module}:{kind}",
            kwargs=arguments,
            max_episode_steps=steps,
        )


def _register_benchmarks() -> None:
    BENCHMARKS.register(
        "environment", "agentgym.environments.benchmark:environment", "steps and resets"
    )
    BENCHMARKS.register("web", "agentgym.environments.web.benchmark:web", "pages in Chromium")
    BENCHMARKS.register("text", "agentgym.environments.text.benchmark:text", "the text games")
