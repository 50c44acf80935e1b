"""Stockfish, or any other program that speaks UCI, as a chess opponent: optional, never needed."""

import queue
import re
import shutil
import subprocess
import threading
from contextlib import suppress

from agentgym.environments.text.chess_position import ChessPosition, chess
from agentgym.errors import EnvFailureError, MissingDependencyError

PROGRAM = "stockfish"
ELO = 1200
"""As in LMRL-Gym; a program whose weakest level is stronger plays at that one."""
MILLISECONDS = 100
"""For one move, as there. What a program finds in a time differs from run to run."""
_WAIT_S = 10.0
_DEBIAN = "/usr/games"
"""Where Debian puts it, which is not on everybody's path."""
_WEAKEST = re.compile(r"option name UCI_Elo .*\bmin (\d+)")


class Stockfish:
    """The program, started when the first move is asked for.

    Args:
        program: its name or path.
        elo: strength, if the program can limit it.
    """

    def __init__(self, program: str = PROGRAM, elo: int = ELO) -> None:
        path = shutil.which(program) or shutil.which(program, path=_DEBIAN)
        if path is None:
            raise MissingDependencyError(
                f"the program {program!r} is not there; install it (apt install stockfish) or "
                "choose the opponent 'alphabeta'"
            )
        self.path, self.elo = path, elo
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def move(self, position: ChessPosition) -> chess.Move:
        """Its move.

        Raises:
            EnvFailureError: it cannot be started, died, took too long, or its move is not legal.
        """
        try:
            if self._process is None:
                self._start()
            self._say(f"position fen {position.fen}", f"go movetime {MILLISECONDS}")
            text = self._hear("bestmove")[-1].split()[1]
            return position.board.parse_uci(text)
        except (OSError, ValueError, IndexError, queue.Empty) as error:
            self.close()
            raise EnvFailureError(f"{self.path} failed as an opponent: {error!r}") from error

    def _start(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([self.path], stdin=pipe, stdout=pipe, text=True)
        self._lines = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
        self._say("uci")
        for option in self._hear("uciok"):
            if weakest := _WEAKEST.match(option):
                elo = max(self.elo, int(weakest[1]))
                self._say("setoption name UCI_LimitStrength value true")
                self._say(f"setoption name UCI_Elo value {elo}")
        self._say("isready")
        self._hear("readyok")

    def _say(self, *lines: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()

    def _hear(self, last: str) -> list[str]:
        """Lines up to one that begins with a word."""
        lines = [self._lines.get(timeout=_WAIT_S)]
        while not lines[-1].startswith(last):
            if not lines[-1]:
                raise BrokenPipeError(f"the program ended before {last!r}")
            lines.append(self._lines.get(timeout=_WAIT_S))
        return lines

    def close(self) -> None:
        """Stop the program; may be called twice, and another move starts it again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        with suppress(OSError):  # what was still to be written to it
            if process.stdin is not None:
                process.stdin.close()


def _read(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str]") -> None:
    """Pass on the program's lines, at its end an empty one."""
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            lines.put(line)
    lines.put("")
