"""agentgym/chess-v0 and agentgym/chess_endgames-v0: chess by written moves (LMRL-Gym)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from agentgym.environments.text.alphabeta import best_move
from agentgym.environments.text.chess_position import ChessPosition, chess, read_board
from agentgym.environments.text.game import Outcome
from agentgym.environments.text.stockfish import ELO, PROGRAM, Stockfish
from agentgym.environments.text.two_player import Engine, TwoPlayerGame, random_engine
from agentgym.errors import ConfigError
from agentgym.players import Player

MAX_ACTIONS = 400
ENDGAMES = ("KQK", "KRK", "KQRK", "KRRK")
_LONGEST_MOVE = 20
"""Characters of a move without spaces; far above the longest, such as ``Qa1xb2+``."""
_QUIET, _EXPERT_QUIET = 2, 4
_FEW_PIECES = 12
_EXPERT_ENDGAME_DEPTH = 3


def move(text: str) -> None:
    """Make a move in standard algebraic notation, e.g. Nf3, exd5, O-O, e8=Q."""


class ChessEnv(TwoPlayerGame):
    r"""Chess against an opponent.

    ## Description
    The task of LMRL-Gym (Abdulhai et al. 2023, arXiv:2311.18232, section 4): the agent sees the
    position and writes a move. The rules are those of the package python-chess.

    ## Action Space
    One action, ``move(text)``: a legal move in standard algebraic notation, with or without the
    marks ``+`` and ``#`` and with or without spaces (``N f 3`` as published, ``Nf3``), or from
    square to square (``g1f3``). Anything else (an illegal move, a null move, the other side's
    piece, empty or over-long text) changes nothing, is told as the next observation's ``error``,
    costs -1, and it is still the same side's turn. ``info["admissible_actions"]`` lists the legal
    moves without the marks.

    ## Observation Space
    ``text`` is the position in Forsyth-Edwards notation; in mode "fixed" followed by a line with
    the other side's last move and whose turn it is; in mode "original" with a space after each
    character and a line break at its end, as published.

    ## Rewards
    1 for a win, -1 for a loss, 0 for a draw and for all moves before, -1 for what is no move. (The
    published documentation promises 0.5 for a stalemate, its code gives 0, as this does.)

    ## Starting State
    The usual one; black's opponent has moved already. ``reset(options=...)`` takes ``position``
    (Forsyth-Edwards notation), ``role`` and ``opponent``.

    ## Episode End
    Terminated with the game: mate, stalemate, too little material, five repetitions, 75 moves
    without progress. Success is a win. `chess-v0` is truncated after 400 turns.

    ## Arguments
    * `opponent`: "alphabeta" (our own search, the same moves for the same seed), "random",
      "stockfish" (if the program is there; at 1200 Elo and 0.1 s a move as published, which no
      seed makes repeatable), "self" (see `TwoPlayerGame`) or a `players.Player`, which may answer
      from ``facts["position"]["fen"]`` and ``facts["moves"]``;
    * `depth`: of "alphabeta", in moves looked ahead; captures are followed further;
    * `elo`: of "stockfish";
    * `role`: "white", "black" or "random";
    * `mode`: "fixed" or "original", LMRL-Gym's, which differs so: the form of the text; the 401st
      action, whatever it is, ends the game as terminated (fixed: truncated after the 400th). Its
      code means a null move to end the game with -1, but a ``finally`` overrides that: it counts
      as an illegal one, and so it does here. The published opponent is Stockfish; ours is the
      default in both modes, so that no program is needed.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [move]
    roles: ClassVar = ("white", "black")
    opponents: ClassVar = ("random", "alphabeta", "stockfish")

    def __init__(
        self, *, opponent: Any = "alphabeta", depth: int = 1, elo: int = ELO, **common: Any
    ) -> None:
        if not 1 <= depth <= 6:
            raise ConfigError(f"depth must be from 1 to 6, got {depth!r}")
        self.depth, self.elo = depth, elo
        self.taken = 0
        """Actions in this episode."""
        self._stockfish: Stockfish | None = None
        super().__init__(opponent=opponent, **common)

    def start(self, options: Mapping[str, Any]) -> ChessPosition:
        """The usual position or that of the options."""
        self.taken = 0
        return self.read_position(options.get("position", chess.STARTING_FEN))

    def read_position(self, saved: Any) -> ChessPosition:
        """A position from its notation, or from where a game began and its moves."""
        if not isinstance(saved, Mapping):
            return ChessPosition(read_board(saved))
        position = ChessPosition(read_board(saved["start"]))
        for played in saved["moves"]:
            made = chess.Move.from_uci(played)
            if not position.board.is_legal(made):
                raise ConfigError(f"{played!r} is not legal in {position.fen!r}")
            position = position.then(made)
        return position

    def write_position(self) -> dict[str, Any]:
        """Where the game began, its moves, and the position now."""
        line = self.position.line()
        return {
            "start": line[0].fen,
            "moves": [position.played.uci() for position in line[1:]],
            "fen": self.position.fen,
        }

    def goal(self) -> str:
        """What to do."""
        return (
            "Play chess and win. Write each move in standard algebraic notation, e.g. Nf3, exd5, "
            "O-O or e8=Q."
        )

    def describe(self) -> str:
        """The position and, when fixed, what happened last and whose turn it is."""
        fen: str = self.position.fen
        if self.mode == "original":
            return f"{' '.join(fen)}\n"
        result = self.position.result()
        mover = self.roles[1 - self.position.turn].capitalize()
        before = f"{mover} played {self.moved}. " if self.moved else ""
        if result is None:
            return f"{fen}\n{before}It is {self.role}'s turn."
        return f"{fen}\n{before}" + (f"{mover} won." if result else "The game is a draw.")

    def find(self, text: str) -> chess.Move | None:
        """The legal move that is meant, whatever form python-chess reads it in."""
        names: Mapping[str, chess.Move] = self.position.names()
        written = "".join(text.split())
        found = names.get(written.rstrip("+#!?"))
        if found is not None or len(written) > _LONGEST_MOVE:
            return found
        board: chess.Board = self.position.board
        for read in (board.parse_san, board.parse_uci):
            try:
                found = read(written)
            except ValueError:
                continue
            return found or None  # a null move is false
        return None

    def name(self, move: Any) -> str:
        """Standard algebraic notation."""
        return str(self.position.board.san(move))

    def legal(self) -> Sequence[str]:
        """Algebraic notation without the marks + and #."""
        return tuple(self.position.names())

    def advance(self, move: Any) -> ChessPosition:
        """The position after a move, which remembers those before."""
        position: ChessPosition = self.position
        return position.then(move)

    def key(self) -> str:
        """The position and its clock; in mode "original" the number of actions too."""
        key = str(self.position.fen.rpartition(" ")[0])
        return f"{key} {self.taken}" if self.mode == "original" else key

    def engine(self, name: str) -> Engine:
        """How a named opponent chooses."""
        if name == "alphabeta":
            return self._search
        if name == "stockfish" and (stockfish := self._stockfish) is not None:
            return lambda position, rng: stockfish.move(position)
        return random_engine

    def _checked_opponent(self, opponent: Any) -> str | Player:
        if opponent == "stockfish" and self._stockfish is None:
            self._stockfish = Stockfish(PROGRAM, self.elo)
        return super()._checked_opponent(opponent)

    def _search(self, position: ChessPosition, rng: np.random.Generator) -> chess.Move:
        found = best_move(position, self.depth, rng, quiet=_QUIET)
        assert isinstance(found, chess.Move)
        return found

    def _expert_depth(self) -> int:
        """One move more than the opponent; two once so few pieces are left that it is cheap."""
        pieces = self.position.board.occupied.bit_count()
        return self.depth + (1 if pieces > _FEW_PIECES else 2)

    def expert(self) -> str:
        """Searches deeper than the opponent and repeats no position it can win from."""
        position: ChessPosition = self.position
        found = best_move(
            position,
            self._expert_depth(),
            quiet=_EXPERT_QUIET,
            drawn={earlier.key() for earlier in position.line()},
        )
        return next(name for name, move in position.names().items() if move == found)

    def unreadable(self, error: str) -> Outcome:
        """No move: told and punished; the game may be over by then."""
        return self._counted(super().unreadable(error))

    def _outcome(self, actor: int) -> Outcome:
        return self._counted(super()._outcome(actor))

    def _counted(self, outcome: Outcome) -> Outcome:
        """As published, the action after the last one ends the game."""
        self.taken += 1
        if self.mode == "original" and self.taken > MAX_ACTIONS and not outcome.terminated:
            return Outcome(outcome.text, outcome.reward, terminated=True, error=outcome.error)
        return outcome

    def save(self) -> Any:
        """What all games for two keep, and the number of actions."""
        return {**super().save(), "taken": self.taken}

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        super().load(state)
        self.taken = int(state["taken"])

    def close(self) -> None:
        """Stop the program, if one plays; may be called twice."""
        if self._stockfish is not None:
            self._stockfish.close()
        super().close()


class ChessEndgamesEnv(ChessEnv):
    """Won endgames of chess against a bare king.

    ## Description
    The endgames of LMRL-Gym: white has a queen (KQK), a rook (KRK), queen and rook (KQRK) or two
    rooks (KRRK) against the king alone, moves first and is to mate. In everything else this is
    `ChessEnv`.

    ## Action Space
    As in `ChessEnv`.

    ## Observation Space
    As in `ChessEnv`.

    ## Rewards
    As in `ChessEnv`; a stalemate or a lost last piece is a draw, 0.

    ## Starting State
    Each piece on a random square, drawn again until the position is valid and white is not in
    check, as published. Which endgame it is, is drawn first unless `endgame` says it.
    ``reset(options=...)`` also takes ``endgame``.

    ## Episode End
    As in `ChessEnv`.

    ## Arguments
    * `endgame`: "KQK", "KRK", "KQRK", "KRRK" or "random";
    * all others: see `ChessEnv`. The published evaluation has a list of 645 positions; here each
      seed is a position.

    ## Version History
    * v0: first.
    """

    extra_options: ClassVar[tuple[str, ...]] = ("position", "endgame")

    def __init__(self, endgame: str = "random", **common: Any) -> None:
        self.endgame = self._checked_endgame(endgame)
        super().__init__(**common)

    def start(self, options: Mapping[str, Any]) -> ChessPosition:
        """A random position of the endgame, or that of the options."""
        endgame = self._checked_endgame(options.get("endgame", self.endgame))
        if "position" in options:
            return super().start(options)
        if endgame == "random":
            endgame = ENDGAMES[self.draw(len(ENDGAMES))]
        self.taken = 0
        while True:
            board = chess.Board(None)
            squares = self.np_random.permutation(64)[: len(endgame)]
            for square, symbol in zip(squares, f"{endgame[:-1]}k", strict=True):
                board.set_piece_at(int(square), chess.Piece.from_symbol(symbol))
            if board.is_valid() and not board.is_check() and any(board.legal_moves):
                return ChessPosition(board)

    def goal(self) -> str:
        """What to do."""
        return (
            "Mate the bare king. Write each move in standard algebraic notation, e.g. Ra7, Qxb2 "
            "or Kd6."
        )

    def _expert_depth(self) -> int:
        return max(_EXPERT_ENDGAME_DEPTH, super()._expert_depth())

    def _checked_endgame(self, endgame: Any) -> str:
        if endgame in (*ENDGAMES, "random"):
            return str(endgame)
        raise ConfigError(f"endgame must be one of {(*ENDGAMES, 'random')}, got {endgame!r}")
