"""Chess: forms of moves, ends and rewards, published texts, endgames, experts, forks."""

from typing import Any

import chess
import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.chess import ENDGAMES, ChessEndgamesEnv, ChessEnv
from agentgym.errors import ConfigError, EnvFailureError
from agentgym.forks import fork
from agentgym.players import PlayerTurn

MATE_IN_ONE = "7k/8/6K1/8/8/8/8/1Q6 w - - 0 1"


class Scripted:
    """A player that always gives one answer, or asks its list one by one."""

    name = "scripted"

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def answer(self, turn: PlayerTurn) -> str:
        return self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)


def at(fen: str = chess.STARTING_FEN, **arguments: Any) -> ChessEnv:
    env = ChessEnv(**arguments)
    env.reset(seed=0, options={"position": fen})
    return env


def test_golden_transcript_of_the_original() -> None:
    env = at(mode="original", opponent=Scripted("e5", "Nc6"))
    assert env.render() == (
        "r n b q k b n r / p p p p p p p p / 8 / 8 / 8 / 8 / P P P P P P P P / R N B Q K B N R   "
        "w   K Q k q   -   0   1\n"
    )
    observation, reward, terminated, truncated, _ = env.step("e 4\n")
    assert observation["text"] == (
        "r n b q k b n r / p p p p   p p p / 8 / 4 p 3 / 4 P 3 / 8 / P P P P   P P P / "
        "R N B Q K B N R   w   K Q k q   -   0   2\n"
    ).replace("p p p p   p p p", "p p p p 1 p p p").replace("P P P P   P P P", "P P P P 1 P P P")
    assert (reward, terminated, truncated) == (0.0, False, False)
    before = observation["text"]
    for illegal in ("K e 3", "--", "hello", ""):  # "--" is python-chess's null move
        observation, reward, terminated, _, _ = env.step(illegal)
        assert (observation["text"], reward, terminated) == (before, -1.0, False)
    assert env.step("N f 3")[0]["text"].startswith("r 1 b q k b n r / p p p p 1 p p p / 2 n 5 /")


def test_the_fixed_text_says_what_happened() -> None:
    env = at(opponent=Scripted("e5"))
    assert env.render() == f"{chess.STARTING_FEN}\nIt is white's turn."
    assert env.step("e4")[0]["text"] == (
        "rnbqkbnr/pppp1ppp/8/4p3/4P3/8/PPPP1PPP/RNBQKBNR w KQkq - 0 2\n"
        "Black played e5. It is white's turn."
    )


@pytest.mark.parametrize("text", ["Nf3", "N f 3", "g1f3", "Ng1f3", "Nf3!", "I develop.\nNf3"])
def test_forms_of_a_move(text: str) -> None:
    observation, *_, info = at(opponent="self").step(text)
    assert observation["error"] == ""
    assert info["state_key"].startswith("rnbqkbnr/pppppppp/8/8/8/5N2/PPPPPPPP/RNBQKB1R b")


def test_castling_and_promotion() -> None:
    castle = "4k3/8/8/8/8/8/8/4K2R w K - 0 1"
    for text in ("O-O", "0-0", "e1g1"):
        assert (
            at(castle, opponent="self")
            .step(text)[4]["state_key"]
            .startswith("4k3/8/8/8/8/8/8/5RK1")
        )
    promote = "8/P6k/8/8/8/8/8/K7 w - - 0 1"
    for text, piece in (("a8=Q", "Q"), ("a8=N", "N"), ("a7a8q", "Q")):
        key = at(promote, opponent="self").step(text)[4]["state_key"]
        assert key.startswith(f"{piece}7/7k")


def test_admissible_moves_are_all_accepted() -> None:
    env = at("r3k2r/1P6/8/2pP4/8/8/8/R3K2R w KQkq c6 0 1", opponent="self")
    _, info = env.reset(seed=0, options={"position": env.position.fen})
    legal = info["admissible_actions"]
    assert len(legal) == env.position.board.legal_moves.count() == len(set(legal))
    for text in legal:
        env.reset(seed=0, options={"position": "r3k2r/1P6/8/2pP4/8/8/8/R3K2R w KQkq c6 0 1"})
        assert env.step(text)[0]["error"] == ""


@pytest.mark.parametrize("text", ["", "e5", "Ke2", "e7e5", "--", "0000", "a" * 50_000, "\ud800"])
def test_what_is_no_move_is_told_and_costs(text: str) -> None:
    env = at()
    observation, reward, terminated, _, info = env.step(text)
    assert observation["error"]
    assert len(observation["error"]) < 200
    assert (reward, terminated, info["role"]) == (-1.0, False, "white")
    assert env.position.fen == chess.STARTING_FEN


def test_mate_wins_and_stalemate_is_a_draw() -> None:
    _, reward, terminated, _, info = at(MATE_IN_ONE).step("Qb8")
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert info["outcomes"] == {"white": 1.0, "black": 0.0}
    _, reward, terminated, _, info = at("7k/8/8/6Q1/8/8/8/K7 w - - 0 1").step("Qg6")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["outcomes"] == {"white": 0.5, "black": 0.5}


def test_the_opponents_mate_loses() -> None:
    env = at(opponent=Scripted("e5", "Qh4#"))
    env.step("f3")
    observation, reward, terminated, _, info = env.step("g4")  # fool's mate
    assert observation["text"].endswith("Black played Qh4#. Black won.")
    assert (reward, terminated, info["success"]) == (-1.0, True, False)
    assert info["rewards"] == {"white": -1.0, "black": 1.0}


def test_the_original_ends_with_its_401st_action() -> None:
    env = gym.make("agentgym/chess.original-v0")
    env.reset(seed=0)
    ends = [env.step("no")[1:4] for _ in range(401)]
    assert ends == [(-1.0, False, False)] * 400 + [(-1.0, True, False)]
    env = gym.make("agentgym/chess-v0")
    env.reset(seed=0)
    assert [env.step("no")[2:4] for _ in range(400)][-2:] == [(False, False), (False, True)]


def test_an_opponent_that_babbles_is_the_environments_failure() -> None:
    env = at(opponent=Scripted("I would rather not."))
    with pytest.raises(EnvFailureError, match="no usable answer"):
        env.step("e4")
    assert env.position.fen == chess.STARTING_FEN


def test_black_can_be_played() -> None:
    env = ChessEnv(role="black", opponent="random")
    observation, info = env.reset(seed=3)
    assert info["role"] == "black"
    assert "White played " in observation["text"]
    assert len(info["admissible_actions"]) == 20


def test_the_search_takes_what_hangs_and_mates() -> None:
    # Black to answer: the queen on d5 is unprotected and attacked by the pawn on e6.
    env = at("4k3/8/4p3/8/3Q4/8/8/4K3 w - - 0 1")
    assert "Black played exd5" in env.step("Qd5")[0]["text"]


@pytest.mark.parametrize("opponent", ["alphabeta", "random", "self"])
def test_a_forked_game_goes_on_like_the_first(opponent: str) -> None:
    env = gym.make("agentgym/chess-v0", opponent=opponent)
    env.reset(seed=2)
    env.action_space.seed(2)
    for _ in range(4):
        env.step(env.action_space.sample())
    copy = fork(env)
    for _ in range(4):
        action = env.action_space.sample()
        assert env.step(action) == copy.step(action)


def test_a_damaged_snapshot_changes_nothing() -> None:
    env = at(opponent="self")
    env.step("e4")
    before, snapshot = env.position.fen, env.snapshot()
    for old, new in ((b"e2e4", b"e2e5"), (b"e2e4", b"zz"), (b'"taken":1', b'"token":1')):
        with pytest.raises(ConfigError):
            env.restore(snapshot.replace(old, new))
        assert env.position.fen == before
    env.restore(snapshot)
    assert env.step("e5")[0]["error"] == ""


def test_a_fork_remembers_repetitions() -> None:
    env = gym.make("agentgym/chess-v0", opponent="self")
    env.reset(seed=0)
    shuffle = ["Nf3", "Nf6", "Ng1", "Ng8"] * 4
    for text in shuffle[:10]:
        env.step(text)
    copy = fork(env)
    for text in shuffle[10:]:
        first, second = env.step(text), copy.step(text)
        assert first == second
    assert first[2] is True
    assert first[4]["outcomes"] == {"white": 0.5, "black": 0.5}


def test_the_expert_beats_the_default_opponent() -> None:
    env = ChessEnv()
    # A rook up; whole games are played by the contract's tests.
    env.reset(seed=0, options={"position": "4k3/ppp2ppp/2n5/8/8/2N5/PPP2PPP/4K2R w K - 0 1"})
    terminated = False
    while not terminated:
        *_, terminated, _, info = env.step(env.oracle_action())
    assert info["success"]


@pytest.mark.parametrize("endgame", ENDGAMES)
def test_endgames_are_valid_and_won_by_the_expert(endgame: str) -> None:
    env = ChessEndgamesEnv(endgame)
    for seed in range(2):
        env.reset(seed=seed)
        board = env.position.board
        pieces = sorted(piece.symbol() for piece in board.piece_map().values())
        assert pieces == sorted(f"{endgame[:-1]}k")
        assert board.is_valid()
        assert board.turn
        assert not board.is_check()
        terminated = False
        while not terminated:
            *_, terminated, _, info = env.step(env.oracle_action())
        assert info["success"]


def test_endgames_follow_the_seed() -> None:
    env = gym.make("agentgym/chess_endgames-v0")
    starts = [env.reset(seed=seed)[0]["text"] for seed in range(20)]
    assert starts == [env.reset(seed=seed)[0]["text"] for seed in range(20)]
    assert len(set(starts)) == 20
    env.reset(seed=0, options={"endgame": "KRRK"})
    assert "R" in env.render()  # type: ignore[operator]


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="depth must be"):
        ChessEnv(depth=0)
    with pytest.raises(ConfigError, match="endgame must be one of"):
        ChessEndgamesEnv("KBNK")
    with pytest.raises(ConfigError, match="no position"):
        ChessEnv().reset(seed=0, options={"position": "nonsense"})
    with pytest.raises(ConfigError, match="must not be over"):
        ChessEnv().reset(seed=0, options={"position": "7k/6Q1/6K1/8/8/8/8/8 b - - 0 1"})
