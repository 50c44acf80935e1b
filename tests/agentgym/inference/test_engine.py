import dataclasses
import gc
import threading
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams, StreamingBackend
from agentgym.errors import ConfigError, InferenceError, UnknownNameError
from agentgym.inference.engine import Engine
from agentgym.inference.hf import HFBackend
from agentgym.inference.pages import PAGE, bytes_per_page
from agentgym.models.load import LoadedModel, load_model
from agentgym.models.tiny import tiny_model
from agentgym.registry import BACKENDS
from agentgym.types import Completion, IntArray

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
PAGE_BYTES = bytes_per_page(2, 2, 16, torch.float32)


def prompts(shared: int, lengths: tuple[int, ...], seed: int = 0) -> list[IntArray]:
    """Random prompts: `shared` common tokens and then as many of their own as `lengths` say."""
    generator = np.random.default_rng(seed)
    start = generator.integers(3, 256, shared)
    return [
        np.concatenate([start, generator.integers(3, 256, n)]).astype(np.int32) for n in lengths
    ]


TEXTS = prompts(50, (5, 1, 9, 9, 80, 33, 2))
REQUESTS = [
    GenerationRequest(
        text, SamplingParams(temperature=(0.0, 1.0, 1.3)[i % 3], top_p=0.9, max_tokens=6 + 5 * i), i
    )
    for i, text in enumerate(TEXTS)
]


def ids(answer: Completion) -> list[int]:
    assert answer.error == ""
    assert answer.token_ids is not None
    return answer.token_ids.tolist()  # type: ignore[no-any-return]


def check_nothing_leaked(engine: Engine) -> None:
    scheduler = engine._scheduler
    assert not scheduler.busy
    assert scheduler.tree.pinned == 0
    assert scheduler.pool.free + scheduler.tree.nodes == scheduler.pool.pages
    scheduler.forget()
    assert scheduler.pool.free == scheduler.pool.pages


def check_equal(ours: list[Completion], theirs: list[Completion]) -> None:
    """Equal but for rounding in what was recorded about the tokens."""
    for a, b in zip(ours, theirs, strict=True):
        assert (ids(a), a.text, a.finish_reason) == (ids(b), b.text, b.finish_reason)
        for name in ("logprobs", "kept_mass", "entropy"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return LoadedModel(*tiny_model(), "tiny")


@pytest.fixture(scope="module")
def expected(tiny: LoadedModel) -> list[Completion]:
    return HFBackend(tiny).generate(REQUESTS)


def test_is_a_streaming_backend(tiny: LoadedModel) -> None:
    with Engine(tiny) as engine:
        assert isinstance(engine, InferenceBackend)
        assert isinstance(engine, StreamingBackend)
        assert engine.concurrency > 1
        assert engine.generate([]) == engine.logprobs([], []) == []
    assert BACKENDS.get("engine") is Engine


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"fused": False},
        {"reuse": False},
        {"max_batch": 2, "chunk": PAGE},
        {"memory": 8 * PAGE_BYTES},
        {"memory": 8 * PAGE_BYTES, "fused": False, "max_batch": 1},
    ],
    ids=str,
)
def test_answers_are_the_references_however_they_are_computed(
    how: dict[str, Any], tiny: LoadedModel, expected: list[Completion]
) -> None:
    with Engine(tiny, **how) as engine:
        check_equal(engine.generate(REQUESTS), expected)
        check_equal(engine.generate(REQUESTS[::-1])[::-1], expected)  # other company, from memory
        whole = [np.concatenate([t, ids(a)]) for t, a in zip(TEXTS, expected, strict=True)]
        scores = engine.logprobs(whole, [len(text) for text in TEXTS])
        for values, answer in zip(scores, expected, strict=True):
            np.testing.assert_allclose(values, answer.logprobs, atol=1e-4)  # type: ignore[arg-type]
        check_nothing_leaked(engine)


def test_greedy_equals_transformers(tiny: LoadedModel) -> None:
    untyped: Any = tiny.model
    with Engine(tiny) as engine:
        answers = engine.generate([GenerationRequest(text, GREEDY) for text in TEXTS])
    for text, answer in zip(TEXTS, answers, strict=True):
        out = untyped.generate(
            torch.tensor([text.tolist()]),
            attention_mask=torch.ones(1, len(text), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=0,
        )
        assert ids(answer) == out[0, len(text) :].tolist()


def test_interrupted_answers_are_the_same(tiny: LoadedModel) -> None:
    requests = [
        GenerationRequest(text, SamplingParams(max_tokens=90), seed)
        for seed, text in enumerate(prompts(0, (20, 30, 25, 18)))
    ]
    reference = HFBackend(tiny, eos_ids=()).generate(requests)
    with Engine(tiny, eos_ids=(), memory=9 * PAGE_BYTES) as engine:
        check_equal(engine.generate(requests), reference)
        assert engine.counters["preempted"] > 0
        check_nothing_leaked(engine)


def test_an_episode_only_computes_what_is_new(tiny: LoadedModel) -> None:
    with Engine(tiny, eos_ids=()) as engine:
        text = TEXTS[0]
        for turn in range(3):
            before = engine.counters
            answer = engine.generate([GenerationRequest(text, GREEDY, turn)])[0]
            if turn:
                assert engine.counters["computed"] - before["computed"] == 1 + 10 + 11
            text = np.concatenate([text, ids(answer), prompts(0, (10,), turn)[0]]).astype(np.int32)


def test_tokens_are_told_as_they_come_and_answers_can_be_aborted(tiny: LoadedModel) -> None:
    told: list[int] = []
    enough = threading.Event()

    def listen(tokens: Any) -> None:
        told.extend(tokens)
        if len(told) >= 5:
            enough.set()

    with Engine(tiny, eos_ids=()) as engine:
        request = GenerationRequest(TEXTS[0], SamplingParams(0.0, max_tokens=1900))
        ticket = engine.submit(request, on_tokens=listen)
        assert enough.wait(60)
        ticket.abort()
        answer = ticket.result(60)
        assert answer.finish_reason == "abort"
        assert ids(answer) == told
        whole = engine.generate([dataclasses.replace(request, sampling=GREEDY)])[0]
        assert told[:5] == ids(whole)[:5]
        ticket.abort()  # too late, and no harm
        with pytest.raises(TimeoutError):
            engine.submit(request).result(0.0)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (GenerationRequest(np.zeros(0, np.int32)), "non-empty"),
        (GenerationRequest(np.array([5, 259], np.int32)), "0..258"),
        (GenerationRequest(np.full(5000, 5, np.int32)), "shorten"),
        (GenerationRequest(np.full(10 * PAGE, 5, np.int32)), "memory"),
        (GenerationRequest(TEXTS[0], SamplingParams(top_p=0)), "top_p"),
        (GenerationRequest(TEXTS[0], weights="critic"), "policy"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_request_fails_alone(
    tiny: LoadedModel, request_: GenerationRequest, word: str, expected: list[Completion]
) -> None:
    with Engine(tiny, memory=10 * PAGE_BYTES) as engine:
        answers = engine.generate([*REQUESTS[:2], request_, *REQUESTS[2:]])
        assert word in answers[2].error
        assert answers[2].finish_reason == "error"
        check_equal(answers[:2] + answers[3:], expected)
        assert engine.submit(request_).done


def test_an_answer_ends_where_memory_does(tiny: LoadedModel) -> None:
    with Engine(tiny, eos_ids=(), memory=2 * PAGE_BYTES) as engine:
        how = SamplingParams(0.0, max_tokens=500)
        answer = engine.generate([GenerationRequest(TEXTS[0], how)])[0]
        assert answer.finish_reason == "length"
        assert len(TEXTS[0]) + len(ids(answer)) == 2 * PAGE


def test_broken_weights_fail_each_request_and_leave_nothing_behind(
    expected: list[Completion],
) -> None:
    model, tokenizer = tiny_model()
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Engine(model, tokenizer) as engine:
        bad = {"model.layers.0.mlp.down_proj.weight": torch.full((64, 128), torch.nan)}
        engine.load_weights(bad, 1)
        answers = engine.generate(REQUESTS)
        assert {a.finish_reason for a in answers} == {"error"}
        assert "not finite" in answers[0].error
        with pytest.raises(InferenceError, match="not finite"):
            engine.logprobs(TEXTS, [1] * len(TEXTS))
        engine.load_weights(good, 2)
        check_equal(engine.generate(REQUESTS), expected)  # no NaN is left in memory
        check_nothing_leaked(engine)


@pytest.mark.parametrize("fused", [True, False])
def test_new_weights_never_meet_old_prefixes(fused: bool) -> None:
    model, tokenizer = tiny_model()
    other, _ = tiny_model(seed=1)
    requests = [GenerationRequest(text, GREEDY) for text in TEXTS]
    reference = HFBackend(other, tokenizer).generate(requests)
    with Engine(model, tokenizer, fused=fused) as engine:
        first = engine.generate(requests)
        assert {a.weights_version for a in first} == {0}
        running = engine.submit(GenerationRequest(TEXTS[0], GREEDY))
        engine.load_weights(other.state_dict(), 3)
        assert running.result(60).weights_version in (0, 3)
        after = engine.generate(requests)
        check_equal(after, reference)
        assert {a.weights_version for a in after} == {engine.version} == {3}
        with pytest.raises(UnknownNameError):
            engine.load_weights({"nonsense": torch.zeros(1)}, 4)
        with torch.no_grad():
            model.lm_head.weight.mul_(-1.0)
        engine.set_version(5)
        flipped = engine.generate(requests)
        assert flipped[0].weights_version == 5
        assert [ids(a) for a in flipped] != [ids(a) for a in after]
        check_nothing_leaked(engine)


def test_a_change_of_weights_waits_for_answers_that_have_begun() -> None:
    model, tokenizer = tiny_model()
    begun = threading.Event()
    with Engine(model, tokenizer, eos_ids=(), max_batch=1) as engine:
        how = SamplingParams(0.0, max_tokens=300)
        running = engine.submit(
            GenerationRequest(TEXTS[0], how), on_tokens=lambda tokens: begun.set()
        )
        waiting = engine.submit(GenerationRequest(TEXTS[1], GREEDY))
        assert begun.wait(60)
        engine.load_weights(tiny_model(seed=1)[0].state_dict(), 1)
        assert running.done
        assert running.result(0).weights_version == 0
        assert waiting.result(60).weights_version == 1


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft
@pytest.mark.parametrize("fused", [True, False])
def test_one_copy_serves_the_policy_and_its_base(fused: bool) -> None:
    base, tokenizer = tiny_model()
    requests = [GenerationRequest(text, GREEDY) for text in TEXTS]
    plain = HFBackend(base, tokenizer).generate(requests)
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    model: Any = get_peft_model(base, config).train()
    policy = HFBackend(model, tokenizer).generate(requests)
    assert [ids(a) for a in policy] != [ids(a) for a in plain]
    mixed = [
        dataclasses.replace(request, weights=weights)
        for request in requests
        for weights in ("policy", "base")
    ]
    with Engine(model, tokenizer, fused=fused) as engine:
        for _ in range(2):
            answers = engine.generate(mixed)
            check_equal(answers[::2], policy)
            check_equal(answers[1::2], plain)
        whole = [np.concatenate([t, ids(a)]) for t, a in zip(TEXTS, plain, strict=True)]
        scores = engine.logprobs(whole, [len(t) for t in TEXTS], weights="base")
        np.testing.assert_allclose(scores[0], plain[0].logprobs, atol=1e-4)  # type: ignore[arg-type]
        name = next(n for n in model.state_dict() if "lora_A" in n)
        engine.load_weights({name: torch.zeros_like(model.state_dict()[name])}, 2)
        changed = engine.generate(mixed)
        check_equal(changed[1::2], plain)
        check_equal(changed[::2], HFBackend(model, tokenizer).generate(requests))
    assert model.training


def test_many_threads_share_the_batch(tiny: LoadedModel, expected: list[Completion]) -> None:
    results: list[list[Completion]] = []
    with Engine(tiny) as engine:
        threads = [
            threading.Thread(target=lambda: results.append(engine.generate(REQUESTS)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for answers in results:
        check_equal(answers, expected)


def test_choices_and_yes_or_no(tiny: LoadedModel) -> None:
    untyped: Any = tiny.model
    prompt, options = prompts(0, (70,))[0], [np.array(o) for o in ([5], [6, 7, 8], [9, 10])]
    with Engine(tiny) as engine:
        found = engine.choices(prompt, options)
        assert engine.counters["computed"] < 2 * len(prompt)  # the prompt is read once
        chance = engine.yes_no(prompt, [5, 6], [7])
        assert engine.choices(prompt, []).shape == (0,)
        with pytest.raises(ConfigError, match="candidate 1"):
            engine.choices(prompt, [options[0], np.zeros(0, np.int32)])
        with pytest.raises(ConfigError, match="no_ids"):
            engine.yes_no(prompt, [5], [])
    for option, value in zip(options, found, strict=True):
        text = torch.tensor([[*prompt.tolist(), *option.tolist()]])
        with torch.inference_mode():
            logprobs = untyped(text).logits[0].log_softmax(-1)
        follow = logprobs[len(prompt) - 1 : -1].gather(1, text[0, len(prompt) :, None])
        np.testing.assert_allclose(value, follow.sum(), atol=1e-4)
    with torch.inference_mode():
        last = untyped(torch.tensor([prompt.tolist()])).logits[0, -1].softmax(-1)
    np.testing.assert_allclose(chance, (last[5] + last[6]) / last[[5, 6, 7]].sum(), atol=1e-5)


def test_features_and_embeddings(tiny: LoadedModel) -> None:
    untyped: Any = tiny.model
    with Engine(tiny) as engine:
        states = {layer: engine.features(TEXTS, layer) for layer in (0, 1, -1)}
        mean, last = engine.embed(TEXTS), engine.embed(TEXTS, "last", layer=1)
        assert engine.embed([]).shape == (0, 64)
        with pytest.raises(ConfigError, match="layer"):
            engine.features(TEXTS, 3)
        with pytest.raises(ConfigError, match="pooling"):
            engine.embed(TEXTS, "max")  # type: ignore[arg-type]
    for index, text in enumerate(TEXTS):
        with torch.inference_mode():
            whole = untyped(torch.tensor([text.tolist()]), output_hidden_states=True).hidden_states
        for layer, found in states.items():
            np.testing.assert_allclose(found[index], whole[layer][0], atol=1e-4)
        np.testing.assert_allclose(mean[index], whole[-1][0].mean(0), atol=1e-4)
        np.testing.assert_allclose(last[index], whole[1][0, -1], atol=1e-4)


def test_logprobs_of_nonsense(tiny: LoadedModel) -> None:
    with Engine(tiny, memory=3 * PAGE_BYTES) as engine:
        assert [len(values) for values in engine.logprobs(TEXTS[:1], [len(TEXTS[0])])] == [0]
        for sequences, starts, word in (
            (TEXTS[:2], [1], "1 starts"),
            (TEXTS[:1], [0], "start"),
            ([np.array([300])], [1], "0..258"),
            ([np.full(3 * PAGE, 5)], [1], "fit"),
        ):
            with pytest.raises(ConfigError, match=word):
                engine.logprobs(sequences, starts)
        with pytest.raises(ConfigError, match="critic"):
            engine.logprobs(TEXTS[:1], [1], weights="critic")  # type: ignore[arg-type]


def test_a_closed_engine_says_so(tiny: LoadedModel) -> None:
    engine = Engine(tiny)
    late = engine.submit(GenerationRequest(TEXTS[0], SamplingParams(max_tokens=1900)))
    engine.close()
    engine.close()
    assert late.done
    for call in (
        lambda: engine.submit(REQUESTS[0]),
        lambda: engine.submit(GenerationRequest(np.zeros(0, np.int32))),
        lambda: engine.load_weights({}, 1),
        lambda: engine.logprobs(TEXTS[:1], [1]),
    ):
        with pytest.raises(InferenceError, match="closed"):
            call()


def test_an_engine_that_nobody_has_ends_its_thread(tiny: LoadedModel) -> None:
    engine = Engine(tiny)
    engine.generate(REQUESTS[:1])
    thread = engine._loop._thread
    assert thread is not None
    del engine
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_made_from_a_name_and_with_wrong_limits() -> None:
    with Engine("tiny", dtype="float32", device="cpu") as engine:
        assert engine.tokenizer is not None
        assert len(ids(engine.generate([GenerationRequest(TEXTS[0], GREEDY)])[0])) == 12
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"max_batch": 0}, "max_batch"),
        ({"chunk": 1}, "chunk"),
        ({"memory": 10}, "memory"),
    ]
    for how, word in wrong:
        with pytest.raises(ConfigError, match=word):
            Engine(*tiny_model(), **how)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("fused", [True, False])
def test_half_precision_is_as_near_as_transformers_own(
    dtype: str, fused: bool, device: str, tiny: LoadedModel
) -> None:
    """Averaged over many texts, since rounding takes some of this model's numbers far off."""
    texts = prompts(0, (5, 41, 70, 23) * 12)
    requests = [GenerationRequest(text, SamplingParams(max_tokens=8), 3) for text in texts]
    starts = [len(text) for text in texts]
    with Engine("tiny", dtype=dtype, device=device, fused=fused, eos_ids=()) as engine:
        answers = engine.generate(requests)
        whole = [np.concatenate([t, ids(a)]) for t, a in zip(texts, answers, strict=True)]
        ours = np.stack(engine.logprobs(whole, starts))
    exact = np.stack(HFBackend(tiny).logprobs(whole, starts))
    half = load_model("tiny", dtype=dtype, device=device)
    theirs = np.stack(HFBackend(half).logprobs(whole, starts))
    error = np.abs(theirs - exact).mean()
    told = np.stack([answer.logprobs for answer in answers if answer.logprobs is not None])
    assert np.abs(ours - exact).mean() < 1.5 * error
    assert np.abs(ours - told).mean() < error


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [True, False])
def test_on_an_accelerator(fused: bool) -> None:
    with Engine("tiny", dtype="float32", memory=64 * PAGE_BYTES, fused=fused) as engine:
        assert engine._decoder.model.device.type != "cpu"
        answers = engine.generate(REQUESTS)
        whole = [np.concatenate([t, ids(a)]) for t, a in zip(TEXTS, answers, strict=True)]
        for answer, scores in zip(
            answers, engine.logprobs(whole, [len(t) for t in TEXTS]), strict=True
        ):
            np.testing.assert_allclose(answer.logprobs, scores, atol=1e-2)  # type: ignore[arg-type]
        check_nothing_leaked(engine)


def test_equal_calls_are_equal_to_the_last_bit(tiny: LoadedModel) -> None:
    """Which requests share a step must not depend on how the threads happen to run."""
    found = []
    for _ in range(3):
        with Engine(tiny) as engine:
            answers = [a for _ in range(2) for a in engine.generate(REQUESTS)]
            found.append((engine.counters, [a.logprobs.tobytes() for a in answers]))  # type: ignore[union-attr]
    assert found[0] == found[1] == found[2]


@pytest.mark.model
def test_the_embedded_model_is_exact() -> None:
    loaded = load_model("smollm2-135m", dtype="float32", device="cpu")
    start = np.random.default_rng(0).integers(3, 49000, 40)
    texts = [np.append(start, [token, 7]).astype(np.int32) for token in (5, 6, 7)]
    requests = [
        GenerationRequest(text, SamplingParams(float(i % 2), max_tokens=4), i)
        for i, text in enumerate(texts)
    ]
    with Engine(loaded) as engine:
        check_equal(engine.generate(requests), HFBackend(loaded).generate(requests))


@pytest.mark.parametrize(
    "count", [300, pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_soak(count: int, tiny: LoadedModel) -> None:
    """Threads send good, bad, oversize and aborted requests, readings and new weights at once.

    Every answer must be its own request's, nobody may starve, and at the end all pages must be
    back.
    """
    generator = np.random.default_rng(0)
    starts = prompts(0, (70, 40, 33), seed=7)
    pool = []
    for index in range(40):
        own = generator.integers(3, 256, int(generator.integers(1, 60)))
        text = np.concatenate([starts[index % 3], own]).astype(np.int32)
        limit = int(generator.integers(1, 40)) * (5 if index % 5 == 0 else 1)
        how = SamplingParams(float(index % 2), max_tokens=limit)
        pool.append(GenerationRequest(text, how, seed=index))
    reference = HFBackend(tiny).generate(pool)
    problems: list[str] = []
    order = generator.integers(0, 44, count)

    def work(engine: Engine, mine: Any) -> None:
        open_: list[tuple[int, Any, list[int]]] = []
        for step, choice in enumerate(mine):
            told: list[int] = []
            request = (
                pool[choice]
                if choice < 40
                else GenerationRequest(np.zeros((0, 9_000, 1)[choice % 3], np.int32) - choice % 3)
            )
            open_.append((choice, engine.submit(request, on_tokens=told.extend), told))
            if step % 17 == 3:
                open_[-1][1].abort()
            if step % 29 == 5:
                wanted = pool[choice % 40].prompt_ids
                if np.isnan(engine.logprobs([wanted], [len(wanted) - 1])[0]).any():
                    problems.append("NaN")
            if len(open_) >= 25:
                finish(open_)
        finish(open_)

    def finish(open_: list[tuple[int, Any, list[int]]]) -> None:
        for choice, ticket, told in open_:
            answer = ticket.result(600)
            if choice >= 40:
                fine = answer.finish_reason in ("error", "length", "stop", "abort")
                fine = fine and (choice % 3 == 2 or bool(answer.error))
            else:
                whole = ids(reference[choice])
                fine = ids(answer) == told == whole[: len(told)]
                fine = fine and (answer.finish_reason == "abort" or told == whole)
            if not fine:
                problems.append(f"{choice}: {answer}")
        open_.clear()

    with Engine(tiny, memory=16 * PAGE_BYTES, max_batch=16, chunk=64) as engine:
        threads = [threading.Thread(target=work, args=(engine, order[i::4])) for i in range(4)]
        for thread in threads:
            thread.start()
        for version in range(1, 4):
            engine.set_version(version)
        for thread in threads:
            thread.join()
        assert problems == []
        assert engine._loop.unfinished == 0
        check_nothing_leaked(engine)
