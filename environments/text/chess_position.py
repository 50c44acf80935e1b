"""Chess positions for search: moves in a promising order, results, estimates, short move names."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentgym.errors import ConfigError, MissingDependencyError

try:
    import chess as chess  # also for the modules beside this one
except ImportError as error:
    raise MissingDependencyError("chess is not installed; run pip install -e '.[text]'") from error

WORTH: Mapping[int, int] = {
    chess.PAWN: 100,
    chess.KNIGHT: 310,
    chess.BISHOP: 330,
    chess.ROOK: 500,
    chess.QUEEN: 950,
    chess.KING: 0,
}
"""Of each kind of piece, in hundredths of a pawn."""
_CENTRE = chess.BB_D4 | chess.BB_E4 | chess.BB_D5 | chess.BB_E5
_MIDDLE = _CENTRE
for _square in chess.SquareSet(_CENTRE):
    _MIDDLE |= chess.BB_KING_ATTACKS[_square]
_HOME = chess.BB_RANK_1 | chess.BB_RANK_8
_SHELTER = (chess.BB_FILE_B | chess.BB_FILE_C | chess.BB_FILE_G) & _HOME


class ChessPosition:
    """A board that never changes; what is computed from it is computed once.

    Args:
        board: taken over, not copied; its own stack of moves is not used.
        before: the position before, for repetitions; None at the start and where they do not
            matter, as in a search.
        played: the move that led here from there.
    """

    __slots__ = ("_fen", "_key", "_moves", "_names", "before", "board", "played")

    def __init__(
        self,
        board: chess.Board,
        before: "ChessPosition | None" = None,
        played: chess.Move | None = None,
    ) -> None:
        self.board = board
        self.before, self.played = before, played
        self._moves: tuple[chess.Move, ...] | None = None
        self._names: dict[str, chess.Move] | None = None
        self._key: tuple[Any, ...] = ()
        self._fen = ""

    @property
    def turn(self) -> int:
        """0 for white, 1 for black."""
        return 0 if self.board.turn else 1

    @property
    def fen(self) -> str:
        """The position in Forsyth-Edwards notation."""
        if not self._fen:
            self._fen = self.board.fen()
        return self._fen

    def moves(self) -> Sequence[chess.Move]:
        """The legal moves, the most valuable captures first; none if the game is over."""
        if self._moves is None:
            if self._draw():
                self._moves = ()
            else:
                legal = self.board.generate_legal_moves()
                self._moves = tuple(sorted(legal, key=self._promise, reverse=True))
        return self._moves

    def noisy(self) -> Sequence[chess.Move]:
        """Captures and promotions to a queen."""
        return [move for move in self.moves() if self._promise(move)]

    def _promise(self, move: chess.Move) -> int:
        """0 for a quiet move; else more for more valuable pieces taken by less valuable ones."""
        board, target = self.board, chess.BB_SQUARES[move.to_square]
        gain = WORTH[chess.QUEEN] if move.promotion == chess.QUEEN else 0
        if board.occupied & target:
            taken = board.piece_type_at(move.to_square) or chess.PAWN
            by = board.piece_type_at(move.from_square) or chess.PAWN
            return gain + 10 * WORTH[taken] - by
        if board.pawns & chess.BB_SQUARES[move.from_square] and move.to_square == board.ep_square:
            return gain + 10 * WORTH[chess.PAWN]
        return gain

    def after(self, move: chess.Move) -> "ChessPosition":
        """The position that a legal move leads to."""
        board = self.board.copy(stack=False)
        board.push(move)
        return ChessPosition(board)

    def then(self, move: chess.Move) -> "ChessPosition":
        """As `after`, and remembering how it came about."""
        after = self.after(move)
        after.before, after.played = self, move
        return after

    def line(self) -> "list[ChessPosition]":
        """The positions from the first remembered one to this one."""
        found: list[ChessPosition] = []
        position: ChessPosition | None = self
        while position is not None:
            found.append(position)
            position = position.before
        return found[::-1]

    def result(self) -> float | None:
        """1 if white has won, -1 if black has, 0 for a draw that is a draw without being claimed.

        These are stalemate, too little material, 75 moves without progress, fivefold repetition.
        """
        if self._draw():
            return 0.0
        movable = any(self.board.generate_legal_moves()) if self._moves is None else self._moves
        if movable:
            return None
        if not self.board.is_check():
            return 0.0
        return -1.0 if self.board.turn else 1.0

    def _draw(self) -> bool:
        board = self.board
        if board.halfmove_clock >= 150 and board.is_seventyfive_moves():
            return True
        if self.before is not None and board.halfmove_clock >= 16 and self._seen() >= 5:
            return True
        heavy = board.pawns | board.rooks | board.queens
        return not heavy and board.is_insufficient_material()

    def _seen(self) -> int:
        """How often the position has been on the board since the last irreversible move."""
        position, seen = self.before, 1
        for _ in range(self.board.halfmove_clock):
            if position is None:
                break
            seen += position.key() == self.key()
            position = position.before
        return seen

    def estimate(self) -> float:
        """Material, centre, advanced pawns, sheltered kings, in hundredths of a pawn for white.

        Against a bare king how cornered it is, the usual way to win without tables.
        """
        board = self.board
        white, black = board.occupied_co[chess.WHITE], board.occupied_co[chess.BLACK]
        total = 0
        for kind, mask in (
            (chess.PAWN, board.pawns),
            (chess.KNIGHT, board.knights),
            (chess.BISHOP, board.bishops),
            (chess.ROOK, board.rooks),
            (chess.QUEEN, board.queens),
        ):
            if mask:
                difference = (mask & white).bit_count() - (mask & black).bit_count()
                total += WORTH[kind] * difference
        if not black & ~board.kings:
            return total + _cornered(board, chess.BLACK)
        if not white & ~board.kings:
            return total - _cornered(board, chess.WHITE)
        minor, pawns = board.knights | board.bishops, board.pawns
        total += 12 * (
            (minor & white & _MIDDLE).bit_count() - (minor & black & _MIDDLE).bit_count()
        )
        total -= 12 * ((minor & white & _HOME).bit_count() - (minor & black & _HOME).bit_count())
        total += 15 * (
            (pawns & white & _CENTRE).bit_count() - (pawns & black & _CENTRE).bit_count()
        )
        for steps in range(2, 6):
            ahead = chess.BB_RANKS[1 + steps] & pawns & white
            behind = chess.BB_RANKS[6 - steps] & pawns & black
            total += 4 * steps * (ahead.bit_count() - behind.bit_count())
        if board.queens:
            kings = board.kings & _SHELTER
            total += 20 * ((kings & white).bit_count() - (kings & black).bit_count())
        return total

    def names(self) -> Mapping[str, chess.Move]:
        """The legal moves by their names in algebraic notation without the marks + and #."""
        if self._names is None:
            self._names = _short_names(self.board, self.moves())
        return self._names

    def key(self) -> tuple[Any, ...]:
        """What makes a repetition: pieces, turn, castling rights and en passant."""
        if not self._key:
            board = self.board
            pieces = board.pawns, board.knights, board.bishops, board.rooks, board.queens
            passing = board.ep_square if board.has_legal_en_passant() else None
            rights = board.clean_castling_rights()
            self._key = (*pieces, board.kings, *board.occupied_co, board.turn, rights, passing)
        return self._key


def _cornered(board: chess.Board, bare: chess.Color) -> int:
    """How near a bare king is to an edge and to the other king, and how little room it has left.

    Its room is the rectangle that the ranks and files of rooks and queens leave to it.
    """
    own, other = board.king(bare), board.king(not bare)
    if own is None or other is None:
        return 0
    file, rank = chess.square_file(own), chess.square_rank(own)
    edge = max(3 - file, file - 4) + max(3 - rank, rank - 4)
    left, right, low, high = -1, 8, -1, 8
    for square in chess.scan_forward(board.rooks | board.queens):
        bar_file, bar_rank = square & 7, square >> 3
        if bar_file < file:
            left = max(left, bar_file)
        elif bar_file > file:
            right = min(right, bar_file)
        if bar_rank < rank:
            low = max(low, bar_rank)
        elif bar_rank > rank:
            high = min(high, bar_rank)
    room = (right - left - 1) * (high - low - 1)
    near = 14 - chess.square_manhattan_distance(own, other)
    return 10 * edge + 6 * near + 4 * (64 - room)


def _short_names(board: chess.Board, moves: Sequence[chess.Move]) -> dict[str, chess.Move]:
    """Algebraic names: a file, a rank or both are added where another piece could go there too."""
    kinds = [board.piece_type_at(move.from_square) or chess.PAWN for move in moves]
    rivals: dict[tuple[int, int], list[int]] = {}
    for kind, move in zip(kinds, moves, strict=True):
        rivals.setdefault((kind, move.to_square), []).append(move.from_square)
    names = {}
    for kind, move in zip(kinds, moves, strict=True):
        start, end = move.from_square, move.to_square
        target = chess.SQUARE_NAMES[end]
        if kind == chess.PAWN:
            captures = chess.square_file(start) != chess.square_file(end)
            name = f"{chess.SQUARE_NAMES[start][0]}x{target}" if captures else target
            if move.promotion:
                name = f"{name}={chess.piece_symbol(move.promotion).upper()}"
        elif kind == chess.KING and abs(start - end) == 2 and board.is_castling(move):
            name = "O-O" if end > start else "O-O-O"
        else:
            others = [square for square in rivals[kind, end] if square != start]
            taking = "x" if board.occupied & chess.BB_SQUARES[end] else ""
            letter = chess.piece_symbol(kind).upper()
            name = f"{letter}{_told_apart(start, others)}{taking}{target}"
        names[name] = move
    return names


def _told_apart(start: int, others: Sequence[int]) -> str:
    if not others:
        return ""
    square = chess.SQUARE_NAMES[start]
    if all(chess.square_file(other) != chess.square_file(start) for other in others):
        return square[0]
    if all(chess.square_rank(other) != chess.square_rank(start) for other in others):
        return square[1]
    return square


def read_board(fen: Any) -> chess.Board:
    """A board from Forsyth-Edwards notation.

    Raises:
        ConfigError: it is none, or a position that no game can reach.
    """
    try:
        board = chess.Board(fen)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{fen!r} is no position in Forsyth-Edwards notation: {error}") from error
    if not board.is_valid():
        raise ConfigError(f"{fen!r} is no valid position: {board.status()!r}")
    return board
