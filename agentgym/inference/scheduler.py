"""Which texts are computed in a step: continuous batching over pages, first come first served."""

import logging
from bisect import insort
from collections.abc import Sequence
from itertools import count

import numpy as np
import torch

from agentgym.inference.answers import NOT_FINITE, Answers
from agentgym.inference.attention import DENSE, Span, in_order
from agentgym.inference.decoder import Decoder
from agentgym.inference.jobs import Generation, Job, Reading, Scoring, States
from agentgym.inference.pages import PAGE, Match, Node, PagePool, PrefixTree
from agentgym.inference.sights import Overlay, overlay

log = logging.getLogger(__name__)

_OVERTAKES = 16
"""Times that a text which does not fit may be overtaken by smaller ones."""
_SCORED_AT_ONCE = 512
"""Positions whose logits are held at a time; each takes V floats."""
_LOOKAHEAD = 8
"""Texts that do not fit, after which no more are tried in a step."""
_TRUNK_GAIN = 192
"""Pages that reading a shared beginning in place must save in a step; its own cost is as much as
attention over about as many pages once several threads share the work."""
_RECOVERY = 64
"""Steps without failure after which lowered limits are doubled."""


class Scheduler:
    """Runs jobs in one thread: `add`, then `step` while `busy`.

    Every step computes one token of each text that is being answered and a chunk of those that
    are being read. Texts are admitted in order of arrival. When memory is full, kept prefixes are
    evicted; then the youngest text gives its pages back and is computed again later, with the
    tokens that it had. The oldest text is therefore never stopped.
    """

    def __init__(
        self,
        decoder: Decoder,
        answers: Answers,
        pool: PagePool,
        *,
        max_batch: int,
        chunk: int,
        reuse: bool,
    ) -> None:
        """Begin with empty memory.

        Args:
            decoder: computes.
            answers: samples.
            pool: memory, all of which is the scheduler's.
            max_batch: most texts in a step.
            chunk: most tokens in a step besides one of each text being answered.
            reuse: keep prefixes.
        """
        self.decoder = decoder
        self.pool = pool
        self.tree = PrefixTree(pool)
        self.version = 0
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.counters = dict.fromkeys(("steps", "computed", "reused", "preempted"), 0)
        """How much was done: tokens computed and tokens found in memory, among others."""
        self._answers = answers
        self._limits = (max_batch, chunk)
        self._max_batch, self._chunk = self._limits
        self._good_steps = 0
        self._reuse = reuse
        self._arrivals = count()
        self._graphs = decoder.graphs(pool)
        self._copies: list[tuple[int, int]] = []  # from page to page, for texts just let in
        self._tails: list[Node] = []  # pinned until they are copied

    @property
    def busy(self) -> bool:
        """True if there is something to do."""
        return bool(self.waiting or self.running)

    @property
    def started(self) -> bool:
        """True if something has results already, running or interrupted."""
        return bool(self.running) or any(job.started for job in self.waiting)

    @property
    def capacity(self) -> int:
        """Longest text that memory can hold."""
        return self.pool.pages * PAGE

    def add(self, job: Job) -> None:
        """Queue a text."""
        job.arrival = next(self._arrivals)
        self.waiting.append(job)

    def step(self, *, fresh: bool = True) -> None:
        """Compute once.

        Args:
            fresh: admit texts that have no results yet; without, the others are finished first.
        """
        self._drop_aborted()
        self._admit(fresh)
        self._copy()
        self._gather()
        for weights in dict.fromkeys(job.weights for job in self.running):
            self._forward([job for job in self.running if job.weights == weights])
        if self._good_steps >= _RECOVERY and (self._max_batch, self._chunk) != self._limits:
            self._max_batch = min(2 * self._max_batch, self._limits[0])
            self._chunk = min(2 * self._chunk, self._limits[1])
            self._good_steps = 0

    def forget(self) -> None:
        """Drop all kept prefixes: the weights have changed. Nothing may be running."""
        for weights in ("policy", "base"):
            self.tree.drop(weights)

    def fail_all(self, reason: str) -> None:
        """End everything without an answer."""
        for job in [*self.running]:
            self._leave(job, keep=False)
            job.fail(reason, self.version)
        for job in self.waiting:
            job.fail(reason, self.version)
        self.waiting.clear()

    def _drop_aborted(self) -> None:
        for job in [job for job in self.running if job.aborted]:
            self._leave(job, keep=True)
            self._abort(job)
        for job in [job for job in self.waiting if job.aborted]:
            self.waiting.remove(job)
            self._abort(job)

    def _abort(self, job: Job) -> None:
        if isinstance(job, Generation):
            job.finish(self.version)
        else:
            job.fail("aborted", self.version)

    # Admission and memory

    def _admit(self, fresh: bool) -> None:
        """Let waiting texts in, in order; one that does not fit may be overtaken a few times."""
        blocked: list[Job] = []
        deferred = 0
        read = _Beginnings(self.running)
        for job in [job for job in self.waiting if fresh or job.started]:
            if len(self.running) >= self._max_batch or deferred >= self._max_batch:
                return
            if len(blocked) > _LOOKAHEAD or any(b.overtaken >= _OVERTAKES for b in blocked):
                return
            match = self._match(job)
            if self._waits(job, match, read):
                deferred += 1
                continue
            if not self._looked(job, match):
                continue
            if self._place(job, match):
                self.waiting.remove(job)
                insort(self.running, job, key=lambda j: j.arrival)
                read.add(job)
                for other in blocked:
                    other.overtaken += 1
            else:
                blocked.append(job)

    def _looked(self, job: Job, match: Match) -> bool:
        """Run the vision tower on what a text shows beyond its kept prefix; False if it fails."""
        if job.sight is None:
            return True
        try:
            job.sight.between(match.tokens, len(job.tokens), job.weights)
        except Exception as error:  # of this text's pictures alone; the others go on
            self.waiting.remove(job)
            reason = f"{type(error).__name__}: {str(error)[:500]}"
            job.fail(f"its pictures cannot be computed ({reason})", self.version)
            return False
        return True

    def _match(self, job: Job) -> Match:
        if not self._reuse:
            return Match()
        limit = min(job.need, len(job.tokens) - 1)
        return self.tree.match(job.weights, np.frombuffer(job.key, ">i4"), limit)

    def _waits(self, job: Job, match: Match, read: "_Beginnings") -> bool:
        """True if the beginning of a text is being read right now for another one."""
        worth = match.tokens + PAGE
        if not self._reuse or job.need < worth:
            return False
        other = read.find(job, worth)
        if other is not None:
            other.awaited = True
        return other is not None

    def _place(self, job: Job, match: Match) -> bool:
        """Give a text its pages and what is kept of its beginning; False if there is no room.

        Kept pages that it cannot read in place with others are lent to it, or copied if another
        text has them; the last, which it goes on writing, is always copied.
        """
        trunk = self._trunk(job, match)
        if not self._fits(job, match, trunk):
            if self.running:
                return False
            match, trunk = Match(), ()  # alone: what is kept of it stands in its own way
        tail = (match.tail,) if match.tail is not None else ()
        self.tree.pin((*match.nodes, *tail))
        job.passed = match.nodes
        job.stand(trunk)
        self._share(job)
        job.pages = []
        for node in (*match.nodes[len(trunk) :], *tail):
            if node in tail or node.lent:
                self._extend(job, (len(trunk) + len(job.pages) + 1) * PAGE)
                self._copies.append((node.page, job.pages[-1]))
            else:
                job.borrow(node)
                job.pages.append(node.page)
        self._tails += tail
        self._extend(job, len(job.tokens))
        job.computed = match.tokens
        self.counters["reused"] += match.tokens
        return True

    def _copy(self) -> None:
        """Copy what the texts just let in begin with, all at once."""
        self.pool.copy([page for page, _ in self._copies], [page for _, page in self._copies])
        self.tree.unpin(self._tails)
        self._copies.clear()
        self._tails.clear()

    def _fits(self, job: Job, match: Match, trunk: Sequence[Node]) -> bool:
        """True if there is room, with a page to grow for each running text."""
        kept = [*match.nodes, *([match.tail] if match.tail is not None else [])]
        available = self.pool.free + self.tree.evictable - sum(not node.users for node in kept)
        loans = sum(not node.lent for node in match.nodes[len(trunk) :])
        wanted = _pages(len(job.tokens) + 1) - len(trunk) - loans
        return available >= wanted + len(self.running)

    def _trunk(self, job: Job, match: Match) -> tuple[Node, ...]:
        """The part of a kept beginning that is read in place, together with other texts.

        All of it where pages are as good anywhere. Else one that others read so already, unless a
        longer one would save much more.
        """
        if self.pool.tables:
            return match.nodes
        best = 0
        for trunk in {other.trunk for other in self.running if other.weights == job.weights}:
            if len(trunk) > best and match.nodes[: len(trunk)] == trunk:
                best = len(trunk)
        for length in range(len(match.nodes), best, -1):
            if match.nodes[length - 1].users * (length - best) >= _TRUNK_GAIN:
                return match.nodes[:length]
        return match.nodes[:best]

    def _share(self, job: Job) -> None:
        """Let running texts read in place, too, what a new one reads so."""
        trunk = job.trunk
        for other in self.running if trunk and not self.pool.tables else ():
            more = len(trunk) - len(other.trunk)
            if more > 0 and other.weights == job.weights and other.passed[: len(trunk)] == trunk:
                owned = other.owned(other.pages[:more])
                self.pool.give(owned)
                self._copies = [copy for copy in self._copies if copy[1] not in owned]
                del other.pages[:more]
                other.end_loans(trunk)
                other.stand(trunk)

    def _extend(self, job: Job, tokens: int) -> bool:
        """Give a text pages for so many tokens; False if memory is full."""
        while not _has_room(job, tokens):
            page = self.pool.take()
            if page is None and self.tree.evict(1):
                page = self.pool.take()
            if page is None:
                return False
            job.pages.append(page)
        return True

    def _make_room(self, jobs: Sequence[Job]) -> list[Job]:
        """Extend texts by a token each, oldest first; the youngest of all may have to leave."""
        preempted = self.counters["preempted"]
        for job in jobs:
            if _has_room(job, len(job.tokens)):
                continue
            while job in self.running and not self._extend(job, len(job.tokens)):
                self._preempt(self.running[-1])
        return self._still_running(jobs) if self.counters["preempted"] > preempted else [*jobs]

    def _still_running(self, jobs: Sequence[Job]) -> list[Job]:
        running = set(self.running)
        return [job for job in jobs if job in running]

    def _preempt(self, job: Job) -> None:
        """Take a text's memory away; it waits at its old place in the order."""
        self._leave(job, keep=False)
        job.rewind()
        insort(self.waiting, job, key=lambda j: j.arrival)
        self.counters["preempted"] += 1

    def _leave(self, job: Job, *, keep: bool, broken: bool = False) -> None:
        """Take a text out of the batch.

        Args:
            job: running.
            keep: its keys and values for later texts.
            broken: they may hold NaN.
        """
        self.running.remove(job)
        kept: set[int] = set()
        if keep and self._reuse and job.computed:
            kept = self._keep(job, job.computed, give=True)
        owned = [page for page in job.owned(job.pages) if page not in kept]
        if broken:
            self.pool.clear(owned)
        self.pool.give(owned)
        job.end_loans(job.passed)
        self.tree.unpin(job.passed)
        job.passed = ()
        job.pages = []
        job.stand(())

    def _keep(self, job: Job, length: int, *, give: bool) -> set[int]:
        """Keep the first `length` tokens of a text; see `PrefixTree.insert`."""
        tokens = np.array(job.tokens[:length], np.int32)
        pages = job.pages[: _pages(length) - len(job.trunk)]
        return self.tree.insert(job.weights, tokens, job.trunk, pages, give=give)

    def _publish(self, job: Job) -> None:
        """Keep a text that goes on: its full pages become loans, its last one is copied."""
        full = job.computed // PAGE * PAGE
        kept = self._keep(job, full, give=True)
        self._keep(job, job.computed, give=False)
        nodes = self.tree.match(job.weights, np.frombuffer(job.key, ">i4"), full).nodes
        self.tree.pin(nodes[len(job.passed) :])
        job.passed = nodes
        for node in nodes:
            if node.page in kept:
                job.borrow(node)

    def _gather(self) -> None:
        """Bring scattered pages of running texts together; see `attention.Plan`."""
        if self.pool.tables:
            return
        pages = sorted(page for job in self.running for page in job.pages)
        if pages and len(pages) < DENSE * (pages[-1] + 1):
            moved = self.tree.gather(pages)
            for job in self.running:
                job.pages = [moved.get(page, page) for page in job.pages]
                job.stand(job.trunk)

    # Computing

    def _forward(self, jobs: list[Job]) -> None:
        """Compute a step of texts that are read by the same weights."""
        jobs = self._make_room(self._still_running(jobs))
        chosen: list[tuple[Job, int]] = []
        left = self._chunk
        for job in jobs:
            new = 1 if job.todo == 1 else min(job.todo, left)
            if new:
                chosen.append((job, new))
                left -= new if job.todo > 1 else 0
        if not chosen:
            return
        spans = [job.span(new) for job, new in chosen]
        if not self.pool.tables:
            order = in_order(spans)
            chosen = [chosen[index] for index in order]
            spans = [spans[index] for index in order]
        try:
            self._compute(chosen, spans)
        except RuntimeError as error:  # out of memory above all; torch has no narrower class
            self._shrink(chosen, error)
        else:
            self._good_steps += 1

    def _compute(self, chosen: Sequence[tuple[Job, int]], spans: Sequence[Span]) -> None:
        if self._graphs is not None:
            answering = [
                job
                for job, new in chosen
                if new == 1 and isinstance(job, Generation) and job.sight is None
            ]
            if len(answering) == len(chosen) and self._decode(answering, spans):
                return
        tokens = [t for job, new in chosen for t in job.tokens[job.computed :][:new]]
        layers = {job.layer for job, _ in chosen if job.layer is not None}
        seen = _seen(chosen, self.pool.memory.device)
        if seen is not None:
            tokens = [max(token, 0) for token in tokens]  # keys of pictures are negative
        hidden, by_layer = self.decoder.hidden(
            torch.tensor(tokens, device=self.pool.memory.device),
            self.decoder.plan(spans, self.pool),
            adapted=chosen[0][0].weights == "policy",
            layers=layers,
            seen=seen,
        )
        broken = _broken(chosen, hidden)
        answering = []
        last: list[int] = []
        scored: list[tuple[Scoring, int, int, int]] = []  # job, position, rows
        start = 0
        for job, new in chosen:
            first = max(job.need - job.computed, 0)  # of the new tokens, the first that is wanted
            end = start + new
            if job in broken:
                pass
            elif isinstance(job, Generation):
                if new == job.todo:
                    answering.append(job)
                    last.append(end - 1)
            elif isinstance(job, Scoring):
                if first < new:
                    scored.append((job, job.computed + first, start + first, end))
            elif isinstance(job, States) and job.layer is not None and first < new:
                job.take(by_layer[job.layer][start + first : end])
            start = end
        self._score(scored, hidden)
        if answering:
            logits = self.decoder.logits(hidden[last])
            self._answers.sample([job.row for job in answering], logits)
        # Only now, as nothing can fail for lack of memory any more.
        self.counters["steps"] += 1
        self.counters["computed"] += len(tokens)
        for job in broken:  # before anything of it is kept
            self._leave(job, keep=False, broken=True)
            job.fail(NOT_FINITE, self.version)
        chosen = [(job, new) for job, new in chosen if job not in broken]
        for job, new in chosen:
            job.computed += new
        self._answered(answering)
        for job, _ in chosen:
            self._offer(job)
            if isinstance(job, Reading) and not job.todo:
                self._finish_reading(job)

    def _decode(self, jobs: Sequence[Generation], spans: Sequence[Span]) -> bool:
        """A step of one token of each text by a CUDA graph; False if that cannot be had.

        Only the sample is waited for: states that are not finite show in it.
        """
        assert self._graphs is not None
        tokens = [job.tokens[job.computed] for job in jobs]
        try:
            logits = self._graphs.logits(tokens, spans, jobs[0].weights == "policy")
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            log.warning("CUDA graphs do not work here; going on without", exc_info=True)
            self._graphs = None
            return False
        answering = [(row, job) for row, job in enumerate(jobs) if job.todo == 1]
        if len(answering) < len(jobs):
            logits = logits[[row for row, _ in answering]]
        self._answers.sample([job.row for _, job in answering], logits)
        self.counters["steps"] += 1
        self.counters["computed"] += len(jobs)
        for job in jobs:
            job.computed += 1
        self._answered([job for _, job in answering])
        for job in jobs:
            self._offer(job)
        return True

    def _score(self, scored: Sequence[tuple[Scoring, int, int, int]], hidden: torch.Tensor) -> None:
        """Hand out log-probabilities, some positions at a time."""
        pieces = [
            (job, position + offset, slice(row + offset, min(row + offset + _SCORED_AT_ONCE, end)))
            for job, position, row, end in scored
            for offset in range(0, end - row, _SCORED_AT_ONCE)
        ]
        while pieces:
            batch, rows = [], 0
            while pieces and (not rows or rows + _length(pieces[0][2]) <= _SCORED_AT_ONCE):
                batch.append(pieces.pop(0))
                rows += _length(batch[-1][2])
            states = torch.cat([hidden[where] for _, _, where in batch])
            logprobs = self.decoder.logits(states).float().log_softmax(dim=-1)
            parts = torch.split(logprobs, [_length(where) for _, _, where in batch])
            for (job, position, _), part in zip(batch, parts, strict=True):
                job.take(part, position)

    def _answered(self, jobs: Sequence[Generation]) -> None:
        """Each text has a new token, which may be its last."""
        for job in jobs:
            job.sampled()
            if job.row.finish is not None:
                broken = job.row.error == NOT_FINITE
                self._leave(job, keep=not broken, broken=broken)
                job.finish(self.version)

    def _offer(self, job: Job) -> None:
        """Keep the beginning of a text for those that wait for it."""
        if job.awaited:
            job.awaited = False
            if job in self.running:
                self._publish(job)

    def _finish_reading(self, job: Reading) -> None:
        self._leave(job, keep=True)
        result = job.result()
        if np.isnan(result).any():  # of the output layer: the states were finite
            job.fail(NOT_FINITE, self.version)
        else:
            job.future.set_result(result)

    def _shrink(self, chosen: Sequence[tuple[Job, int]], error: RuntimeError) -> None:
        """A step failed: go on with half of it; a text that fails alone is told why."""
        chosen = [(job, new) for job, new in chosen if job in self.running]
        tokens = sum(new for _, new in chosen)
        reason = f"{type(error).__name__}: {str(error)[:500]}"
        self._good_steps = 0
        if self.pool.memory.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(chosen) == 1 and tokens <= PAGE:
            job = chosen[0][0]
            self._leave(job, keep=False)
            job.fail(f"{reason} (a smaller memory= leaves more room for computing)", self.version)
            return
        self._chunk = max(PAGE, min(self._chunk, tokens) // 2)
        self._max_batch = max(1, len(chosen) // 2)
        log.warning(
            "a step of %d texts failed (%s); going on with %d texts and chunks of %d",
            len(chosen),
            reason,
            self._max_batch,
            self._chunk,
        )
        while len(self.running) > self._max_batch:
            self._preempt(self.running[-1])


class _Beginnings:
    """How the texts that are being read begin, for all lengths that are asked for."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = [job for job in jobs if job.todo > 1]
        self._found: dict[int, dict[tuple[str, bytes], Job]] = {}

    def add(self, job: Job) -> None:
        """Another text is being read."""
        if job.todo > 1:
            self._jobs.append(job)
            for length in self._found:
                self._note(job, length)

    def find(self, job: Job, length: int) -> Job | None:
        """One that begins with the same tokens, read by the same weights."""
        if length not in self._found:
            self._found[length] = {}
            for other in self._jobs:
                self._note(other, length)
        return self._found[length].get((job.weights, job.key[: 4 * length]))

    def _note(self, job: Job, length: int) -> None:
        if len(job.tokens) >= length:
            self._found[length].setdefault((job.weights, job.key[: 4 * length]), job)


def _broken(chosen: Sequence[tuple[Job, int]], hidden: torch.Tensor) -> list[Job]:
    """Texts with states that are not finite.

    A token sees itself in every layer, so its last state is finite only if all its keys and
    values are.
    """
    finite = hidden.isfinite().all(dim=-1)
    if bool(finite.all()):
        return []
    parts = torch.split(finite, [new for _, new in chosen])
    return [job for (job, _), part in zip(chosen, parts, strict=True) if not bool(part.all())]


def _seen(chosen: Sequence[tuple[Job, int]], device: torch.device) -> Overlay | None:
    """What the pictures of a step's texts change."""
    if not any(job.sight for job, _ in chosen):
        return None
    rows = [(job.sight, job.computed, new, job.weights) for job, new in chosen]
    return overlay(rows, device)


def _has_room(job: Job, tokens: int) -> bool:
    return (len(job.trunk) + len(job.pages)) * PAGE >= tokens


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)


def _length(where: slice) -> int:
    length: int = where.stop - where.start
    return length
