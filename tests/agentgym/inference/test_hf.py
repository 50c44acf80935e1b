import dataclasses
import re
import threading
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import MistralConfig, MistralForCausalLM

from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams
from agentgym.errors import ConfigError, InferenceError, UnknownNameError
from agentgym.inference import cache, hf
from agentgym.inference.answers import Answers
from agentgym.inference.hf import HFBackend
from agentgym.models.load import LoadedModel, load_model
from agentgym.models.tiny import tiny_model
from agentgym.types import Completion, IntArray

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
SAMPLED = SamplingParams(max_tokens=12)


def prompts(shared: int, lengths: tuple[int, ...], top: int = 256, seed: int = 0) -> list[IntArray]:
    """Random prompts: `shared` common tokens and then as many of their own as `lengths` say."""
    generator = np.random.default_rng(seed)
    start = generator.integers(3, top, shared)
    return [
        np.concatenate([start, generator.integers(3, top, n)]).astype(np.int32) for n in lengths
    ]


RAGGED = prompts(20, (5, 1, 9, 9, 30))


def ask(texts: list[IntArray], how: SamplingParams = SAMPLED) -> list[GenerationRequest]:
    return [GenerationRequest(text, how, seed=index) for index, text in enumerate(texts)]


def recompute(backend: HFBackend, texts: list[IntArray], answers: list[Completion]) -> float:
    """Largest difference between sampled and recomputed log-probabilities."""
    whole = [np.concatenate([t, ids(a)]) for t, a in zip(texts, answers, strict=True)]
    again = backend.logprobs(whole, [len(text) for text in texts])
    return max(
        float(np.abs(values - logprobs(answer)).max())
        for values, answer in zip(again, answers, strict=True)
    )


def ids(answer: Completion) -> IntArray:
    assert answer.error == ""
    assert answer.token_ids is not None
    return answer.token_ids


def logprobs(answer: Completion) -> Any:
    assert answer.logprobs is not None
    return answer.logprobs


def greedy_by_transformers(model: Any, text: IntArray, tokens: int) -> list[int]:
    """What `model.generate` says, for one prompt alone."""
    out = model.generate(
        torch.tensor([text.tolist()]),
        attention_mask=torch.ones(1, len(text), dtype=torch.long),
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=0,
    )
    return out[0, len(text) :].tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return LoadedModel(*tiny_model(), "tiny")


@pytest.fixture
def backend(tiny: LoadedModel) -> HFBackend:
    return HFBackend(tiny)


@pytest.fixture
def windowed() -> HFBackend:
    """A model whose padding a mask cannot describe."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.3,
        eos_token_id=2,
    )
    return HFBackend(MistralForCausalLM(config).train(False), tiny_model()[1])


def test_is_a_backend(backend: HFBackend) -> None:
    assert isinstance(backend, InferenceBackend)
    assert (backend.version, backend.concurrency) == (0, 1)
    assert backend.answers.eos_ids == {2}
    assert backend.generate([]) == []
    assert backend.logprobs([], []) == []


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("max_batch", [1, 2, 64])
def test_recomputed_logprobs_equal_the_sampled_ones(
    tiny: LoadedModel, max_batch: int, share_prefix: bool
) -> None:
    backend = HFBackend(tiny, max_batch=max_batch, share_prefix=share_prefix)
    answers = backend.generate(ask(RAGGED))
    assert recompute(backend, RAGGED, answers) < 1e-4
    # Against the plain forward pass of each text alone, with no padding at all.
    for text, answer in zip(RAGGED, answers, strict=True):
        whole = torch.tensor([[*text.tolist(), *ids(answer).tolist()]])
        with torch.inference_mode():
            plain = tiny.model(whole).logits[0].log_softmax(-1)
        taken = plain[len(text) - 1 : -1].gather(1, whole[0, len(text) :, None])[:, 0]
        np.testing.assert_allclose(logprobs(answer), taken.numpy(), atol=1e-4)
        entropy = -(plain.exp() * plain).sum(-1)[len(text) - 1 : -1]
        assert answer.entropy is not None
        np.testing.assert_allclose(answer.entropy, entropy.numpy(), atol=1e-4)


def test_greedy_equals_transformers(backend: HFBackend, tiny: LoadedModel) -> None:
    for text, answer in zip(RAGGED, backend.generate(ask(RAGGED, GREEDY)), strict=True):
        assert ids(answer).tolist() == greedy_by_transformers(tiny.model, text, 12)


def test_models_that_cannot_be_padded_are_exact_too(windowed: HFBackend) -> None:
    texts = prompts(6, (5, 1, 5, 9, 9))
    answers = windowed.generate(ask(texts, GREEDY))
    assert recompute(windowed, texts, answers) < 1e-4
    for text, answer in zip(texts, answers, strict=True):
        assert ids(answer).tolist() == greedy_by_transformers(windowed.model, text, 12)


def test_the_same_seed_gives_the_same_sample_in_any_company(tiny: LoadedModel) -> None:
    requests = ask(RAGGED, SamplingParams(temperature=1.3, top_p=0.95, top_k=200, max_tokens=10))
    whole = HFBackend(tiny).generate(requests)
    one_by_one = [HFBackend(tiny).generate([request])[0] for request in requests]
    backwards = HFBackend(tiny, max_batch=2).generate(requests[::-1])[::-1]
    for a, b, c in zip(whole, one_by_one, backwards, strict=True):
        assert ids(a).tolist() == ids(b).tolist() == ids(c).tolist()
        np.testing.assert_allclose(logprobs(a), logprobs(b), atol=1e-4)
    other = HFBackend(tiny).generate([dataclasses.replace(requests[0], seed=99)])[0]
    assert ids(other).tolist() != ids(whole[0]).tolist()


def test_equal_prompts_differ_by_seed_only(backend: HFBackend) -> None:
    text = RAGGED[0]
    answers = backend.generate([GenerationRequest(text, SAMPLED, seed) for seed in (1, 2, 1)])
    assert ids(answers[0]).tolist() == ids(answers[2]).tolist() != ids(answers[1]).tolist()


def test_every_request_has_its_own_parameters(backend: HFBackend) -> None:
    text = RAGGED[0]
    answers = backend.generate(
        [
            GenerationRequest(text, GREEDY),
            GenerationRequest(text, SamplingParams(top_k=1, max_tokens=3)),
            GenerationRequest(text, SamplingParams(temperature=5.0, max_tokens=7), seed=1),
        ]
    )
    assert ids(answers[1]).tolist() == ids(answers[0]).tolist()[:3]
    assert [a.finish_reason for a in answers] == ["length"] * 3
    assert [len(ids(a)) for a in answers] == [12, 3, 7]
    assert answers[1].kept_mass is not None
    assert (answers[1].kept_mass < 1).all()
    assert answers[2].kept_mass is not None
    assert (answers[2].kept_mass == 1).all()


def test_an_answer_ends_with_its_end_token(tiny: LoadedModel) -> None:
    free = ids(HFBackend(tiny, eos_ids=()).generate(ask(RAGGED, GREEDY))[0]).tolist()
    end = free[4]
    answer = HFBackend(tiny, eos_ids=[end]).generate(ask(RAGGED, GREEDY))[0]
    stop = free.index(end)
    assert ids(answer).tolist() == free[: stop + 1]
    assert answer.finish_reason == "stop"
    assert answer.text == tiny.tokenizer.decode(free[:stop])


def test_rows_leave_at_different_times_without_disturbing_the_rest(tiny: LoadedModel) -> None:
    texts = prompts(10, tuple(range(1, 13)))
    how = [SamplingParams(temperature=0.0, max_tokens=1 + (7 * i) % 13) for i in range(12)]
    requests = [GenerationRequest(t, h) for t, h in zip(texts, how, strict=True)]
    for request, answer in zip(requests, HFBackend(tiny).generate(requests), strict=True):
        alone = greedy_by_transformers(tiny.model, request.prompt_ids, request.sampling.max_tokens)
        assert ids(answer).tolist() == alone


def test_a_stop_string_ends_the_answer_at_its_token(tiny: LoadedModel) -> None:
    backend = HFBackend(tiny, eos_ids=())
    free = backend.generate(ask(RAGGED[:1], dataclasses.replace(SAMPLED, max_tokens=40)))[0]
    found = re.search(r"[!-~]{2}", free.text[3:])  # two tokens of one byte
    assert found
    stop, first = found[0], free.text.index(found[0])
    for stops in ((stop,), ("never", stop, stop + "too late")):
        how = SamplingParams(max_tokens=40, stop=stops)
        answer = backend.generate(ask(RAGGED[:1], how))[0]
        assert answer.finish_reason == "stop"
        assert answer.text == free.text[:first]
        kept = str(tiny.tokenizer.decode(ids(answer).tolist()))
        assert kept.endswith(stop)
        assert kept.index(stop) == first
        assert ids(answer).tolist() == ids(free).tolist()[: len(ids(answer))]


def test_stop_strings_in_long_answers_are_searched_in_the_tail(
    backend: HFBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    text_of = Answers.text

    def spy(self: Answers, tokens: Any) -> str:
        decoded.append(len(tokens))
        return text_of(self, tokens)

    monkeypatch.setattr(Answers, "text", spy)
    backend.answers.eos_ids = frozenset()
    how = SamplingParams(max_tokens=60, stop=("never said",))
    answer = backend.generate(ask(RAGGED[:1], how))[0]
    assert answer.finish_reason == "length"
    assert max(decoded[:-1]) == len("never said") + 8  # the last call makes the whole text
    assert decoded[-1] == 60


def test_an_answer_ends_where_the_positions_do() -> None:
    backend = HFBackend(*tiny_model(positions=24), eos_ids=())
    short, long, too_long = (np.full(n, 5, np.int32) for n in (4, 22, 24))
    answers = backend.generate(ask([short, long, too_long], GREEDY))
    assert [a.finish_reason for a in answers] == ["length", "length", "error"]
    assert [len(ids(a)) for a in answers[:2]] == [12, 2]
    assert "24 positions" in answers[2].error


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (GenerationRequest(np.zeros(0, np.int32)), "non-empty"),
        (GenerationRequest(np.zeros((2, 2), np.int32)), "1-d"),
        (GenerationRequest(np.zeros(3, np.float32)), "integer"),
        (GenerationRequest(np.array(5, np.int32)), "1-d"),
        (GenerationRequest(np.array([5, 259], np.int32)), "0..258"),
        (GenerationRequest(np.array([-1], np.int32)), "0..258"),
        (GenerationRequest(np.full(5000, 5, np.int32)), "shorten"),
        (GenerationRequest(RAGGED[0], SamplingParams(top_p=0)), "top_p"),
        (GenerationRequest(RAGGED[0], SamplingParams(max_tokens="8")), "max_tokens"),  # type: ignore[arg-type]
        (GenerationRequest(RAGGED[0], seed=-1), "seed"),
    ],
)
def test_a_bad_request_fails_alone(
    backend: HFBackend, request_: GenerationRequest, word: str
) -> None:
    good = ask(RAGGED, GREEDY)
    answers = backend.generate([*good[:2], request_, *good[2:]])
    assert answers[2].finish_reason == "error"
    assert answers[2].token_ids is None
    assert word in answers[2].error
    rest = answers[:2] + answers[3:]
    for answer, expected in zip(rest, backend.generate(good), strict=True):
        assert ids(answer).tolist() == ids(expected).tolist()


def test_stop_strings_need_a_tokenizer(tiny: LoadedModel) -> None:
    backend = HFBackend(tiny.model)
    plain, stop = backend.generate(
        [
            GenerationRequest(RAGGED[0], GREEDY),
            GenerationRequest(RAGGED[0], SamplingParams(stop=("x",))),
        ]
    )
    assert "tokenizer" in stop.error
    assert plain.text == ""
    assert len(ids(plain)) == 12


def test_broken_weights_fail_each_request_with_the_reason() -> None:
    backend = HFBackend(*tiny_model())
    with torch.no_grad():
        backend.model.state_dict()["lm_head.weight"][7] = torch.nan
    # The embeddings are tied, so a NaN in one makes every row's logits NaN.
    answers = backend.generate(ask(RAGGED))
    assert {a.finish_reason for a in answers} == {"error"}
    assert "not finite" in answers[0].error


def test_what_does_not_fit_is_answered_in_halves(
    backend: HFBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = backend.generate(ask(RAGGED))
    sizes: list[int] = []
    prefill = cache.PaddedRows.prefill

    def small(self: Any, texts: Any, new_tokens: int, sights: Any) -> Any:
        sizes.append(len(texts))
        if len(texts) > 2 or any(len(text) == 50 for text in texts):
            raise torch.OutOfMemoryError("no memory left")
        return prefill(self, texts, new_tokens, sights)

    monkeypatch.setattr(cache.PaddedRows, "prefill", small)
    answers = backend.generate(ask(RAGGED))
    assert sizes == [5, 2, 3, 1, 2, 1, 1]
    for answer, whole, text in zip(answers, expected, RAGGED, strict=True):
        if len(text) == 50:  # alone it does not fit either
            assert "no memory left" in answer.error
        else:
            assert ids(answer).tolist() == ids(whole).tolist()
    assert "halves" in caplog.text


def test_chunks_keep_to_rows_and_padded_tokens() -> None:
    lengths = {0: 5, 1: 6, 2: 10, 3: 11, 4: 100}
    assert list(hf._packed([0, 1, 2, 3, 4], lengths, 64, 30)) == [[0, 1, 2], [3], [4]]
    assert list(hf._packed([0, 1, 2, 3, 4], lengths, 2, 1000)) == [[0, 1], [2, 3], [4]]
    assert list(hf._packed([], lengths, 2, 1000)) == []


def test_logprobs_from_any_start(backend: HFBackend, tiny: LoadedModel) -> None:
    whole = backend.logprobs(RAGGED, [1] * 5)
    some = backend.logprobs(RAGGED, [3, 21, 1, 29, 50])
    for text, all_, tail, start in zip(RAGGED, whole, some, [3, 21, 1, 29, 50], strict=True):
        assert (len(all_), len(tail)) == (len(text) - 1, len(text) - start)
        assert tail.dtype == np.float32
        np.testing.assert_allclose(tail, all_[start - 1 :], atol=1e-5)
    with torch.inference_mode():
        plain = tiny.model(torch.tensor([RAGGED[4].tolist()])).logits[0, :-1].log_softmax(-1)
    expected = plain.gather(1, torch.tensor(RAGGED[4][1:, None].tolist()))[:, 0]
    np.testing.assert_allclose(whole[4], expected.numpy(), atol=1e-4)


def test_logprobs_in_pieces(backend: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = backend.logprobs(RAGGED, [1] * 5)
    monkeypatch.setattr(hf, "_SCORED_AT_ONCE", 7)
    for piece, whole in zip(backend.logprobs(RAGGED, [1] * 5), expected, strict=True):
        np.testing.assert_allclose(piece, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("sequences", "starts", "word"),
    [
        (RAGGED, [1], "1 starts"),
        (RAGGED[:1], [0], "start"),
        (RAGGED[:1], [99], "start"),
        ([np.array([300], np.int32)], [1], "0..258"),
    ],
)
def test_logprobs_of_nonsense(
    backend: HFBackend, sequences: list[IntArray], starts: list[int], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        backend.logprobs(sequences, starts)


def test_new_weights_answer_and_carry_their_version() -> None:
    backend, other = HFBackend(*tiny_model(seed=0)), HFBackend(*tiny_model(seed=1))
    expected = other.generate(ask(RAGGED, GREEDY))
    assert backend.generate(ask(RAGGED, GREEDY))[0].weights_version == 0
    backend.load_weights(other.model.state_dict(), version=3)
    for answer, want in zip(backend.generate(ask(RAGGED, GREEDY)), expected, strict=True):
        assert ids(answer).tolist() == ids(want).tolist()
        assert answer.weights_version == 3


def test_some_weights_may_be_given_and_wrong_ones_change_nothing() -> None:
    backend = HFBackend(*tiny_model())
    name = "model.layers.0.mlp.up_proj.weight"
    before = backend.model.state_dict()[name].clone()
    with pytest.raises(UnknownNameError, match="up_proj"):
        backend.load_weights({name: before * 2, "model.layers.0.mlp.up_prj.weight": before}, 1)
    with pytest.raises(InferenceError, match="shape"):
        backend.load_weights({name: before * 2, "model.norm.weight": before}, 1)
    assert torch.equal(backend.model.state_dict()[name], before)
    assert backend.version == 0
    backend.load_weights({name: (before * 2).bfloat16()}, 1)
    torch.testing.assert_close(backend.model.state_dict()[name], before * 2, atol=0.05, rtol=0.01)
    assert backend.version == 1


def test_the_trainers_own_model_is_used_as_it_is() -> None:
    model, tokenizer = tiny_model()
    model.train()
    model.activation_checkpointing_enable()
    backend = HFBackend(model, tokenizer)
    before = backend.generate(ask(RAGGED, GREEDY))
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.1)
    backend.set_version(1)
    after = backend.generate(ask(RAGGED, GREEDY))
    assert after[0].weights_version == 1
    assert [ids(a).tolist() for a in before] != [ids(a).tolist() for a in after]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    loss: Any = model(torch.tensor([[5, 6, 7]])).logits.sum()
    loss.backward()  # generation left nothing behind that gradients stumble over


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft
def test_lora_models_answer_with_their_adapter() -> None:
    base, tokenizer = tiny_model()
    plain = HFBackend(base, tokenizer).generate(ask(RAGGED, GREEDY))
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    model: Any = get_peft_model(base, config)
    model.train()
    backend = HFBackend(model, tokenizer)
    answers = backend.generate(ask(RAGGED, GREEDY))
    assert [ids(a).tolist() for a in answers] != [ids(a).tolist() for a in plain]
    assert recompute(backend, RAGGED, answers) < 1e-4  # dropout is off in both
    of_base = dataclasses.replace(ask(RAGGED)[0], weights="base")
    assert "Engine" in backend.generate([of_base])[0].error
    assert HFBackend(*tiny_model()).generate([of_base])[0].error == ""
    name = next(n for n in model.state_dict() if "lora_A" in n)
    backend.load_weights({name: torch.zeros_like(model.state_dict()[name])}, 2)
    assert backend.version == 2


def test_calls_from_many_threads_take_turns(backend: HFBackend) -> None:
    expected = [ids(a).tolist() for a in backend.generate(ask(RAGGED))]
    results: list[list[list[int]]] = []

    def work() -> None:
        results.append([ids(a).tolist() for a in backend.generate(ask(RAGGED))])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_a_closed_backend_says_so() -> None:
    backend = HFBackend(*tiny_model())
    backend.close()
    backend.close()
    with pytest.raises(InferenceError, match="closed"):
        backend.generate(ask(RAGGED))
    with pytest.raises(InferenceError, match="closed"):
        backend.load_weights({}, 1)


def test_made_from_a_name_and_with_wrong_limits() -> None:
    backend = HFBackend("tiny", dtype="float32", device="cpu")
    assert backend.tokenizer is not None
    assert len(ids(backend.generate(ask(RAGGED, GREEDY))[0])) == 12
    with pytest.raises(ConfigError, match="max_batch"):
        HFBackend(*tiny_model(), max_batch=0)


@pytest.fixture(scope="module")
def smol() -> LoadedModel:
    return load_model("smollm2-135m", dtype="float32", device="cpu")


@pytest.mark.model
def test_the_embedded_model_is_exact(smol: LoadedModel) -> None:
    texts = prompts(10, (1, 6), top=49000)
    backend = HFBackend(smol)
    greedy, sampled = GREEDY, SamplingParams(max_tokens=5)
    requests = ask(texts, dataclasses.replace(greedy, max_tokens=5)) + ask(texts, sampled)
    answers = backend.generate(requests)
    assert recompute(backend, texts * 2, answers) < 1e-4
    assert recompute(HFBackend(smol, max_batch=1), texts * 2, answers) < 1e-4
    assert ids(answers[0]).tolist() == greedy_by_transformers(smol.model, texts[0], 5)
    unshared = HFBackend(smol, share_prefix=False).generate(requests[1:2])[0]
    assert ids(answers[1]).tolist() == ids(unshared).tolist()


@pytest.mark.model
def test_the_embedded_model_answers(smol: LoadedModel) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    encoded: Any = smol.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True
    )
    text = np.array(encoded["input_ids"], np.int32)
    answer = HFBackend(smol).generate([GenerationRequest(text, GREEDY)])[0]
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert ids(answer)[-1] == smol.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_an_accelerator(dtype: str, tiny: LoadedModel) -> None:
    backend = HFBackend("tiny", dtype=dtype)
    assert backend.model.device.type != "cpu"
    answers = backend.generate(ask(RAGGED))
    assert recompute(backend, RAGGED, answers) < (1e-3 if dtype == "float32" else 0.5)
    backend.load_weights(tiny.model.state_dict(), 1)
    assert backend.generate(ask(RAGGED))[0].weights_version == 1
