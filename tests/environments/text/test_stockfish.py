"""Stockfish's seat: a small program that speaks UCI sits in it."""

import sys
from pathlib import Path

import chess
import pytest

from agentgym.environments.text.chess import ChessEnv
from agentgym.environments.text.chess_position import ChessPosition
from agentgym.environments.text.stockfish import Stockfish
from agentgym.errors import EnvFailureError, MissingDependencyError

# Plays the alphabetically first legal move, after it has noted its options in a file.
PROGRAM = """#!{python}
import sys, chess
board = chess.Board()
for line in sys.stdin:
    word, *rest = line.split()
    if word == "uci":
        print("option name UCI_LimitStrength type check default false")
        print("option name UCI_Elo type spin default 1350 min 1350 max 2850")
        print("uciok")
    elif word == "isready":
        print("readyok")
    elif word == "setoption":
        with open("{notes}", "a") as notes:
            notes.write(line)
    elif word == "position":
        fen, _, moves = line.partition(" moves ")
        board = chess.Board() if rest[0] == "startpos" else chess.Board(fen[len("position fen "):])
        for move in moves.split():
            board.push_uci(move)
    elif word == "go":
        {go}
    elif word == "quit":
        break
    sys.stdout.flush()
"""
PLAY = 'print("bestmove", min(move.uci() for move in board.legal_moves))'


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, go: str = PLAY) -> Path:
    """Put the program on the path under Stockfish's name; returns the file of its notes."""
    program, notes = folder / "stockfish", folder / "notes.txt"
    program.write_text(PROGRAM.format(python=sys.executable, notes=notes, go=go))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return notes


def test_a_program_plays_black(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = installed(tmp_path, monkeypatch)
    env = ChessEnv(opponent="stockfish")
    env.reset(seed=0)
    observation, reward, _, _, info = env.step("e4")
    assert "Black played a5. It is white's turn." in observation["text"]
    assert (reward, info["role"]) == (0.0, "white")
    assert "Black played a4." in env.step("d4")[0]["text"]
    # 1200 is below the program's weakest level.
    assert "UCI_Elo value 1350" in notes.read_text()
    env.close()
    env.close()  # may be called twice


def test_without_the_program_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("agentgym.environments.text.stockfish._DEBIAN", "")
    with pytest.raises(MissingDependencyError, match="alphabeta"):
        Stockfish()
    with pytest.raises(MissingDependencyError, match="alphabeta"):
        ChessEnv(opponent="stockfish")


@pytest.mark.parametrize("go", ["sys.exit(1)", 'print("bestmove e2e5")', 'print("bestmove")'])
def test_a_program_that_fails_is_the_environments_failure(
    go: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, go=go)
    player = Stockfish()
    with pytest.raises(EnvFailureError, match="failed as an opponent"):
        player.move(ChessPosition(chess.Board()))
    installed(tmp_path, monkeypatch)  # and it is started again
    assert player.move(ChessPosition(chess.Board())) == chess.Move.from_uci("a2a3")
    player.close()
