from typing import Any

import numpy as np
import pytest
import torch

from agentgym.core import GenerationRequest, SamplingParams
from agentgym.inference.answers import Answers
from agentgym.inference.decoder import Decoder, make_decoder
from agentgym.inference.jobs import Generation, NextScores, States, TokenScores
from agentgym.inference.pages import PAGE
from agentgym.inference.scheduler import Scheduler
from agentgym.models.tiny import tiny_model
from agentgym.types import IntArray

MODEL, TOKENIZER = tiny_model()
ANSWERS = Answers(MODEL, TOKENIZER, eos_ids=())
DECODER = make_decoder(MODEL)


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def scheduler(
    pages: int = 64,
    batch: int = 8,
    chunk: int = 64,
    decoder: Decoder = DECODER,
    reuse: bool = True,
) -> Scheduler:
    return Scheduler(
        decoder, ANSWERS, decoder.pool(pages), max_batch=batch, chunk=chunk, reuse=reuse
    )


def prompt(length: int, seed: int = 0) -> IntArray:
    return np.random.default_rng(seed).integers(3, 256, length).astype(np.int32)


def job(tokens: IntArray, new: int = 4, weights: Any = "policy") -> Generation:
    sampling = SamplingParams(temperature=0.0, max_tokens=new)
    return Generation(ANSWERS.row(GenerationRequest(tokens, sampling)), ANSWERS, weights)


def run(what: Scheduler) -> None:
    while what.busy:
        what.step()


def check_nothing_leaked(what: Scheduler) -> None:
    assert what.tree.pinned == 0
    assert what.pool.free + what.tree.nodes == what.pool.pages
    what.forget()
    assert what.pool.free == what.pool.pages


def answer(tokens: IntArray, new: int = 4) -> list[int]:
    """Greedy, by nothing but the model's forward pass."""
    text = tokens.tolist()
    for _ in range(new):
        text.append(int(MODEL(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(tokens) :]  # type: ignore[no-any-return]


def ids(done: Generation) -> list[int]:
    completion = done.future.result(0)
    assert completion.error == ""
    return completion.token_ids.tolist()  # type: ignore[no-any-return]


def test_texts_join_and_leave_while_others_go_on() -> None:
    what = scheduler()
    first = job(prompt(10, 1), new=8)
    what.add(first)
    what.step()
    what.step()
    assert len(first.row.ids) == 2
    late = job(prompt(100, 2), new=2)  # two chunks of 64
    what.add(late)
    what.step()
    assert (len(first.row.ids), late.computed) == (3, 64)
    what.step()
    assert (len(first.row.ids), len(late.row.ids)) == (4, 1)
    run(what)
    assert ids(first) == answer(prompt(10, 1), 8)
    assert ids(late) == answer(prompt(100, 2), 2)
    check_nothing_leaked(what)


def test_the_next_turn_reuses_everything() -> None:
    what = scheduler()
    turn = job(prompt(50), new=5)
    what.add(turn)
    run(what)
    before = what.counters["computed"]
    text = np.concatenate([prompt(50), np.array(ids(turn)), prompt(7, 9)]).astype(np.int32)
    follow = job(text, new=1)
    what.add(follow)
    run(what)
    # The last token of an answer is sampled and never read.
    assert what.counters["computed"] - before == 1 + 7
    assert what.counters["reused"] == 54
    assert ids(follow) == answer(text, 1)
    check_nothing_leaked(what)


def test_what_is_kept_is_lent_to_one_and_copied_for_others(monkeypatch: Any) -> None:
    what = scheduler()
    start = prompt(3 * PAGE + 5)
    first = job(start, new=1)
    what.add(first)
    run(what)
    used = what.pool.free
    copies: list[int] = []
    copy = what.pool.copy

    def counted(sources: list[int], targets: list[int]) -> None:
        copies.extend(sources)
        copy(sources, targets)

    monkeypatch.setattr(what.pool, "copy", counted)
    texts = [np.concatenate([start, prompt(5, seed)]) for seed in (1, 2)]
    jobs = [job(text) for text in texts]
    for each in jobs:
        what.add(each)
    what.step()
    assert [len(each.loans) for each in jobs] == [3, 0]
    assert len(copies) == 1 + 4  # the page that each goes on writing, and what is lent already
    assert used - what.pool.free == 1 + 4
    run(what)
    assert [ids(each) for each in jobs] == [answer(text) for text in texts]
    assert len(copies) == 1 + 4  # nothing at the end: the tree takes the pages themselves
    check_nothing_leaked(what)


def test_a_text_that_goes_on_has_on_loan_what_others_waited_for() -> None:
    what = scheduler(chunk=128)
    start = prompt(3 * PAGE + 5)
    jobs = [job(start, new=9), job(start, new=2)]
    for each in jobs:
        what.add(each)
    what.step()
    assert len(jobs[0].loans) == 3
    what.step()
    assert (len(jobs[0].passed), len(jobs[1].passed)) == (3, 3)
    run(what)
    assert [ids(each) for each in jobs] == [answer(start, 9), answer(start, 2)]
    assert what.counters["computed"] == 3 * PAGE + 5 + 8 + 2
    check_nothing_leaked(what)


def test_loans_move_with_the_running_texts() -> None:
    what = scheduler()
    old, early = prompt(2 * PAGE, 1), prompt(4 * PAGE, 2)
    for text in (early, old):  # the early one lies below
        what.add(job(text, new=1))
        run(what)
    text = np.concatenate([old, prompt(5, 3)])
    follow = job(text, new=3)
    what.add(follow)
    what.step()
    assert len(follow.loans) >= 1
    assert sorted(follow.pages) == list(range(len(follow.pages)))
    again = job(early, new=2)  # what made way is found where it went
    what.add(again)
    run(what)
    assert (ids(follow), ids(again)) == (answer(text, 3), answer(early, 2))
    check_nothing_leaked(what)


def test_equal_beginnings_that_arrive_together_are_read_once() -> None:
    what = scheduler()
    start = prompt(3 * PAGE)
    texts = [np.concatenate([start, prompt(5, seed)]) for seed in range(1, 7)]
    jobs = [job(text) for text in texts]
    for each in jobs:
        what.add(each)
    run(what)
    assert [ids(each) for each in jobs] == [answer(text) for text in texts]
    assert what.counters["reused"] == 5 * 3 * PAGE
    check_nothing_leaked(what)


def test_many_share_a_beginning_in_place() -> None:
    what = scheduler(pages=320, batch=40, chunk=512)
    start = prompt(6 * PAGE)
    texts = [np.concatenate([start, prompt(5, seed)]) for seed in range(1, 41)]
    jobs = [job(text) for text in texts]
    for each in jobs:
        what.add(each)
    what.step()
    what.step()
    what.step()
    assert {len(each.trunk) for each in jobs} == {6}  # also those that had copies at first
    run(what)
    assert [ids(each) for each in jobs] == [answer(text) for text in texts]
    check_nothing_leaked(what)


def test_copies_for_pages_that_are_given_back_at_once_are_dropped(monkeypatch: Any) -> None:
    what = scheduler(pages=320, batch=40, chunk=512)
    start = prompt(6 * PAGE + 9)
    what.add(job(start, new=1))
    run(what)
    copy = what.pool.copy

    def checked(sources: list[int], targets: list[int]) -> None:
        assert len(set(targets)) == len(targets)
        copy(sources, targets)

    monkeypatch.setattr(what.pool, "copy", checked)
    texts = [np.concatenate([start, prompt(5, seed)]) for seed in range(1, 41)]
    jobs = [job(text, new=2) for text in texts]
    for each in jobs:
        what.add(each)
    what.step()
    assert {len(each.trunk) for each in jobs} == {6}  # the first ones were to have copies
    run(what)
    assert [ids(each) for each in jobs] == [answer(text, 2) for text in texts]
    check_nothing_leaked(what)


def check_pages(what: Scheduler) -> None:
    """Every page has one owner, and what running texts need stays."""
    pages = [page for each in what.running for page in each.pages]
    assert len(pages) == len(set(pages))
    for each in what.running:
        assert {node.page for node in each.loans} <= set(each.pages)
        assert each.loans <= set(each.passed)
        assert all(node.alive and node.users for node in each.passed)
    lent = sum(len(each.loans) for each in what.running)
    assert what.pool.free + what.tree.nodes + len(pages) - lent == what.pool.pages


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_texts_keep_to_their_own_pages(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that branch off each other, in little memory, some of them aborted or interrupted."""
    random = np.random.default_rng(seed)
    monkeypatch.setattr("agentgym.inference.scheduler._TRUNK_GAIN", (2, 8, 192)[seed % 3])
    pages = (10, 20, 60)[seed // 2]
    what = scheduler(pages=pages, batch=6, chunk=PAGE)
    roots = [prompt(int(random.integers(1, pages * PAGE // 2)), seed * 9 + i) for i in range(3)]
    texts: list[tuple[Generation, IntArray, int]] = []
    for _ in range(30):
        for _ in range(random.integers(4)):
            known = [*roots, *(np.array(each.tokens, np.int32) for each, _, _ in texts[-5:])]
            start = known[random.integers(len(known))]
            own = prompt(int(random.integers(1, 40)), int(random.integers(4)))
            text = np.concatenate([start[: random.integers(len(start) + 1)], own])
            text, new = text[: (pages - 2) * PAGE], int(random.choice([1, 4, 70]))
            texts.append((job(text, new, random.choice(["policy", "base"])), text, new))
            what.add(texts[-1][0])
        if texts and random.random() < 0.2:
            texts[random.integers(len(texts))][0].aborted = True
        what.step()
        check_pages(what)
    run(what)
    for each, text, new in texts:
        assert each.aborted or ids(each) == answer(text, new)
    assert pages > 20 or what.counters["preempted"]
    check_nothing_leaked(what)


def test_without_reuse_nothing_is_kept() -> None:
    what = scheduler(reuse=False)
    for _ in range(2):
        what.add(job(prompt(50)))
        run(what)
    assert (what.counters["reused"], what.pool.free) == (0, 64)


def test_when_memory_is_full_the_youngest_is_interrupted_and_goes_on_later() -> None:
    what = scheduler(pages=7)
    texts = [prompt(PAGE - 4, seed) for seed in (1, 2, 3)]
    jobs = [job(text, new=2 * PAGE) for text in texts]  # three pages each
    for each in jobs:
        what.add(each)
    done: list[int] = []
    while what.busy:
        what.step()
        done += [i for i, each in enumerate(jobs) if each.future.done() and i not in done]
    assert what.counters["preempted"] >= 1
    assert done[0] == 0  # the oldest was never stopped
    assert [ids(each) for each in jobs] == [answer(text, 2 * PAGE) for text in texts]
    check_nothing_leaked(what)


def test_a_text_that_does_not_fit_is_overtaken_a_bounded_number_of_times() -> None:
    what = scheduler(pages=8, batch=4, reuse=False)
    what.add(job(prompt(PAGE), new=6 * PAGE))  # long, and slowly growing
    what.step()
    big = job(prompt(6 * PAGE), new=1)
    what.add(big)
    small = [job(prompt(5, seed), new=1) for seed in range(60)]
    for each in small:
        what.add(each)
    overtaken = 0
    while not big.future.done():
        what.step()
        if big in what.waiting:
            overtaken = sum(each.future.done() for each in small)
    assert 0 < overtaken < 30
    run(what)
    assert ids(big) == answer(prompt(6 * PAGE), 1)
    check_nothing_leaked(what)


def test_a_text_as_long_as_memory_is_answered_although_its_beginning_is_kept() -> None:
    what = scheduler(pages=4)
    text = prompt(4 * PAGE - 2)
    for _ in range(3):
        each = job(text, new=2)
        what.add(each)
        run(what)
        assert ids(each) == answer(text, 2)
    check_nothing_leaked(what)


def test_an_aborted_text_hands_over_what_it_has() -> None:
    what = scheduler(batch=1)
    running, waiting = job(prompt(5, 1), new=50), job(prompt(5, 2))
    for each in (running, waiting):
        what.add(each)
    what.step()
    what.step()
    running.aborted = waiting.aborted = True
    what.step()
    assert not what.busy
    done = running.future.result(0)
    assert (done.finish_reason, done.token_ids.tolist()) == ("abort", answer(prompt(5, 1), 2))
    assert waiting.future.result(0).finish_reason == "abort"
    check_nothing_leaked(what)


def test_readings_in_chunks_and_from_kept_prefixes() -> None:
    what = scheduler()
    text = prompt(150)
    plain = MODEL(torch.tensor([text.tolist()]), output_hidden_states=True)
    logprobs = plain.logits[0].log_softmax(-1)
    expected = logprobs[:-1].gather(1, torch.tensor(text[1:, None].tolist()))[:, 0]
    scores = [TokenScores(text, start, "policy") for start in (1, 120)]
    states = [States(text, layer, 0, "policy") for layer in (0, 1, 2)]
    following = NextScores(text, [[5], [6, 7]], "policy")
    for each in (*scores, *states, following):
        what.add(each)
        run(what)
    np.testing.assert_allclose(scores[0].future.result(0), expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(scores[1].future.result(0), expected.numpy()[119:], atol=1e-4)
    for layer, each in enumerate(states):
        whole = plain.hidden_states[layer][0].numpy()
        np.testing.assert_allclose(each.future.result(0), whole, atol=1e-4)
    sums = [logprobs[-1, [5]].logsumexp(0), logprobs[-1, [6, 7]].logsumexp(0)]
    np.testing.assert_allclose(following.future.result(0), sums, atol=1e-4)
    assert what.counters["reused"] == 119 + 149
    check_nothing_leaked(what)


def test_interrupted_readings_go_on_where_they_were() -> None:
    what = scheduler(pages=9, chunk=PAGE)
    text = prompt(6 * PAGE)
    reading = TokenScores(text, 1, "policy")
    what.add(job(prompt(PAGE, 1), new=4 * PAGE))  # grows until the reading has to leave
    what.step()
    what.add(reading)
    run(what)
    alone = TokenScores(text, 1, "policy")
    fresh = scheduler()
    fresh.add(alone)
    run(fresh)
    np.testing.assert_allclose(reading.future.result(0), alone.future.result(0), atol=1e-4)
    check_nothing_leaked(what)


class Flaky(Decoder):
    """Has no memory for steps of more than so many tokens."""

    def __init__(self, most: int, poison: int = -1) -> None:
        super().__init__(MODEL)
        self.most, self.poison = most, poison

    def hidden(self, ids: torch.Tensor, plan: Any, **how: Any) -> Any:
        if len(ids) > self.most or self.poison in ids.tolist():
            raise torch.OutOfMemoryError("no memory left")
        return DECODER.hidden(ids, plan, **how)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return DECODER.logits(hidden)

    def refresh(self) -> None:
        pass


def test_steps_shrink_when_memory_for_computing_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    what = scheduler(decoder=Flaky(most=40), chunk=256)
    texts = [prompt(100, seed) for seed in range(4)]
    jobs = [job(text) for text in texts]
    for each in jobs:
        what.add(each)
    run(what)
    assert "going on with" in caplog.text
    assert [ids(each) for each in jobs] == [answer(text) for text in texts]
    check_nothing_leaked(what)


def test_a_text_that_fails_alone_is_told_and_the_rest_goes_on() -> None:
    bad = prompt(20, 5)
    bad[7] = 258
    what = scheduler(decoder=Flaky(most=999, poison=258))
    texts = [prompt(20, 1), bad, prompt(20, 2)]
    jobs = [job(text) for text in texts]
    reading = TokenScores(bad, 1, "policy")
    for each in (*jobs, reading):
        what.add(each)
    run(what)
    assert ids(jobs[0]) == answer(texts[0])
    assert ids(jobs[2]) == answer(texts[2])
    assert "no memory left" in jobs[1].future.result(0).error
    with pytest.raises(Exception, match="no memory left"):
        reading.future.result(0)
    what._good_steps = 999
    what.add(job(prompt(3)))
    run(what)
    assert what._max_batch > 1  # the limits grow back
    check_nothing_leaked(what)


def test_a_text_that_is_not_finite_leaves_nothing_that_others_could_meet() -> None:
    class Overflowing(Flaky):
        def hidden(self, ids: torch.Tensor, plan: Any, **how: Any) -> Any:
            out, kept = DECODER.hidden(ids, plan, **how)
            bad = torch.isin(ids, torch.tensor([258]))
            for row in bad.nonzero()[:, 0].tolist():
                both = plan.pool.views(1)
                for part in both:
                    part[plan._pages[row], :, plan._slots[row]] = torch.nan
            return torch.where(bad[:, None], torch.nan, out), kept

    bad = prompt(3 * PAGE, 5)
    bad[PAGE + 7] = 258
    what = scheduler(pages=8, decoder=Overflowing(most=999), chunk=PAGE)
    jobs: list[Any] = [job(bad), job(bad), TokenScores(bad, 1, "policy"), job(prompt(20, 1))]
    for each in jobs:
        what.add(each)
    run(what)
    assert "not finite" in jobs[0].future.result(0).error
    assert "not finite" in jobs[1].future.result(0).error
    with pytest.raises(Exception, match="not finite"):
        jobs[2].future.result(0)
    assert ids(jobs[3]) == answer(prompt(20, 1))
    assert what.pool.memory.isfinite().all()
    check_nothing_leaked(what)


def test_texts_of_both_weights_run_side_by_side() -> None:
    what = scheduler()
    jobs = [job(prompt(40), weights=weights) for weights in ("policy", "base")]
    for each in jobs:
        what.add(each)
    run(what)
    assert ids(jobs[0]) == ids(jobs[1]) == answer(prompt(40))
    assert what.counters["reused"] == 0  # prefixes are kept apart
    check_nothing_leaked(what)


def test_only_started_texts_are_admitted_before_a_change_of_weights() -> None:
    what = scheduler(batch=1)
    first, second = job(prompt(5, 1), new=3), job(prompt(5, 2))
    for each in (first, second):
        what.add(each)
    what.step()
    for _ in range(5):
        what.step(fresh=False)
    assert first.future.done()
    assert not what.started
    assert second in what.waiting
    what.fail_all("over")
    assert second.future.result(0).error == "over"
    check_nothing_leaked(what)
