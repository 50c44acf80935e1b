"""Pictures in prompts, in every backend of this process, against transformers' own `generate`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from agentgym.chat import chat_ids
from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import ConfigError
from agentgym.images import decode_image, encode_image
from agentgym.inference.engine import Engine
from agentgym.inference.hf import HFBackend
from agentgym.inference.sights import Sights, check_embeddings, overlay
from agentgym.models.load import LoadedModel, load_model
from agentgym.models.tiny import tiny_tokenizer
from agentgym.models.tiny_vlm import TINY_VLMS
from agentgym.models.vision import Vision, stills_only
from agentgym.types import Image, IntArray, Message

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
SAMPLED = SamplingParams(temperature=1.0, max_tokens=12)


def noise(seed: int, height: int = 50, width: int = 70) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode_image(pixels)


A, B, C = noise(0), noise(1), noise(2, 20, 90)


@dataclass
class Case:
    """One way to answer, and what transformers itself would say."""

    loaded: LoadedModel
    make: Callable[..., Any]

    @property
    def vision(self) -> Vision:
        assert self.loaded.vision is not None
        return self.loaded.vision

    def ids(self, *messages: Message) -> IntArray:
        return np.array(chat_ids(self.loaded.tokenizer, messages, self.vision), np.int32)

    def ask(
        self, *messages: Message, sampling: SamplingParams = GREEDY, seed: int = 0
    ) -> GenerationRequest:
        images = tuple(image for message in messages for _, image in message.images)
        return GenerationRequest(self.ids(*messages), sampling, seed, messages, images=images)

    def inputs(self, ids: IntArray, images: Sequence[Image]) -> dict[str, Any]:
        """As the model's processor prepares them."""
        pictures = [Pillow.fromarray(decode_image(image.data or b"")) for image in images]
        text = self.vision.image_token * len(images)
        made = self.vision.processor(images=[pictures], text=[text], return_tensors="pt")
        tokens = torch.as_tensor(ids[None], dtype=torch.long)
        made["input_ids"] = tokens
        made["attention_mask"] = torch.ones_like(tokens)
        if "mm_token_type_ids" in made:
            made["mm_token_type_ids"] = (tokens == self.vision.image_token_id).int()
        return dict(made)

    def expected(self, request: GenerationRequest) -> list[int]:
        """What transformers' own `generate` says, cut at the end token."""
        inputs = (
            self.inputs(request.prompt_ids, request.images)
            if request.images
            else {"input_ids": torch.as_tensor(request.prompt_ids[None], dtype=torch.long)}
        )
        untyped: Any = self.loaded.model
        out = untyped.generate(
            **inputs, max_new_tokens=request.sampling.max_tokens, do_sample=False
        )
        return list(map(int, out[0, len(request.prompt_ids) :]))

    def scores(self, ids: IntArray, images: Sequence[Image], start: int) -> Any:
        with torch.inference_mode():
            untyped: Any = self.loaded.model
            logits = untyped(**self.inputs(ids, images)).logits[0].log_softmax(-1)
        return logits[np.arange(start, len(ids)) - 1, ids[start:]].numpy()


def hf_alone(loaded: LoadedModel, **kwargs: Any) -> HFBackend:
    backend = HFBackend(loaded, **kwargs)
    backend._pads = False
    return backend


WAYS: dict[str, Callable[..., Any]] = {
    "hf": HFBackend,
    "hf, own forward": hf_alone,
    "engine": Engine,
    "engine, not fused": lambda loaded, **kwargs: Engine(loaded, fused=False, **kwargs),
}


@pytest.fixture(scope="module", params=TINY_VLMS)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(request.param, dtype="float32", device="cpu")


@pytest.fixture(params=WAYS)
def case(request: pytest.FixtureRequest, loaded: LoadedModel) -> Iterator[Case]:
    made: list[Any] = []

    def make(**kwargs: Any) -> Any:
        made.append(WAYS[request.param](loaded, **kwargs))
        return made[-1]

    yield Case(loaded, make)
    for backend in made:
        backend.close()


@pytest.fixture
def engines(loaded: LoadedModel) -> Iterator[Case]:
    made: list[Engine] = []

    def make(**kwargs: Any) -> Engine:
        made.append(Engine(loaded, **kwargs))
        return made[-1]

    yield Case(loaded, make)
    for engine in made:
        engine.close()


def user(text: str, *images: Image) -> Message:
    return Message("user", text, tuple((0, image) for image in images))


def talks(case: Case) -> list[GenerationRequest]:
    """Pictures in different turns, none at all, and several in a row."""
    system = Message("system", "Look.")
    said = Message("assistant", "I see.")
    return [
        case.ask(system, user("What is it?", A)),
        case.ask(system, user("Hello there, nothing to see")),
        case.ask(system, user("What is it?", A), said, user("And now, after this?", B)),
        case.ask(system, user("Both", A, C), said, user("no more"), said, user("And?")),
        case.ask(system, user("first"), said, user("only later", C)),
    ]


def test_greedy_is_transformers_own_token_for_token(case: Case) -> None:
    requests = talks(case)
    answers = case.make().generate(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert not answer.error
        assert answer.token_ids.tolist() == case.expected(request)


def test_log_probabilities_are_those_of_a_full_forward(case: Case) -> None:
    requests = [request for request in talks(case) if request.images]
    backend = case.make()
    answers = backend.generate([replace(r, sampling=SAMPLED) for r in requests])
    texts = [
        np.concatenate([r.prompt_ids, a.token_ids]) for r, a in zip(requests, answers, strict=True)
    ]
    stray = case.vision.image_token_id
    starts = [len(request.prompt_ids) for request in requests]
    scored = backend.logprobs(texts, starts, images=[request.images for request in requests])
    for request, answer, text, start, found in zip(
        requests, answers, texts, starts, scored, strict=True
    ):
        if stray in answer.token_ids[:-1]:
            continue  # transformers' own forward would look for a picture there
        expected = case.scores(text, request.images, start)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)


def test_company_and_kept_prefixes_change_nothing(case: Case) -> None:
    requests = [replace(r, sampling=SAMPLED, seed=i) for i, r in enumerate(talks(case))]
    backend = case.make()
    together = backend.generate(requests)
    again = backend.generate(requests[::-1])[::-1]
    alone = [case.make().generate([request])[0] for request in requests]
    for one, two, three in zip(together, again, alone, strict=True):
        assert one.token_ids.tolist() == two.token_ids.tolist() == three.token_ids.tolist()
        np.testing.assert_allclose(one.logprobs, three.logprobs, atol=1e-4)


def test_other_pictures_give_other_answers_to_the_same_ids(case: Case) -> None:
    message = user("What is it, in one long word that goes on for more than a page of tokens?", A)
    first = case.ask(message)
    second = replace(first, images=(B,))
    backend = case.make()
    one, two = backend.generate([first]), backend.generate([second])
    assert one[0].token_ids.tolist() == case.expected(first)
    assert two[0].token_ids.tolist() == case.expected(second)
    assert np.abs(one[0].logprobs[0] - two[0].logprobs[0]) > 1e-3
    both = backend.generate([second, first])
    assert both[0].token_ids.tolist() == two[0].token_ids.tolist()
    assert both[1].token_ids.tolist() == one[0].token_ids.tolist()


def test_a_broken_picture_fails_alone(case: Case) -> None:
    good = case.ask(user("What is it?", A))
    broken = replace(good, images=(Image("ab", b"no picture"),))
    gone = replace(good, images=(Image("ac"),))
    few = replace(good, images=(A, B))
    found = case.make().generate([broken, good, gone, few])
    assert [answer.finish_reason for answer in found].count("error") == 3
    assert "no PNG" in found[0].error
    assert found[1].token_ids.tolist() == case.expected(good)
    assert "without its bytes" in found[2].error
    assert "no place for picture 2 of 2" in found[3].error


def test_a_model_without_vision_says_so(case: Case) -> None:
    request = case.ask(user("What is it?", A))
    for backend in (HFBackend(case.loaded.model), Engine(case.loaded.model)):
        assert "reads no pictures" in backend.generate([request])[0].error
        with pytest.raises(ConfigError, match="reads no pictures"):
            backend.logprobs([request.prompt_ids], [1], images=[request.images])
        backend.close()


def test_wrong_pictures_of_texts_to_score_are_told(case: Case) -> None:
    ids = case.ask(user("What is it?", A)).prompt_ids
    backend = case.make()
    with pytest.raises(ConfigError, match="pictures of 2"):
        backend.logprobs([ids], [1], images=[(A,), (B,)])
    with pytest.raises(ConfigError, match="no place for picture"):
        backend.logprobs([ids], [1], images=[(C,)])


def test_new_weights_see_anew(case: Case) -> None:
    """Neither features nor prefixes of the old weights are used."""
    name = next(
        n for n, _ in case.loaded.model.named_parameters() if "connector" in n or "merger" in n
    )
    old = case.loaded.model.state_dict()[name].clone()
    request = case.ask(user("What is it, in a text of more than one page of memory?", A))
    backend = case.make()
    before = backend.generate([request])[0]
    try:
        backend.load_weights({name: old * -2}, 1)
        after = backend.generate([request])[0]
        assert after.token_ids.tolist() == case.expected(request)
        assert np.abs(after.logprobs[0] - before.logprobs[0]) > 1e-4
    finally:
        backend.load_weights({name: old}, 2)
    assert backend.generate([request])[0].token_ids.tolist() == before.token_ids.tolist()


def test_a_picture_is_seen_once_however_many_prompts_show_it(engines: Case) -> None:
    engine = engines.make()
    requests = talks(engines)
    engine.generate(requests)
    assert engine.counters["pictures"] == 3
    engine.generate([engines.ask(user(f"{i}", A, B, C)) for i in range(4)])
    assert engine.counters["pictures"] == 3


def test_prefixes_with_pictures_are_computed_once(engines: Case) -> None:
    engine = engines.make()
    said = Message("assistant", "I see.")
    long = user("What is it, in a text of more than one page of memory?", A)
    engine.generate([engines.ask(long)])
    before = engine.counters
    grown = engines.ask(long, said, user("And now?"))
    answer = engine.generate([grown])[0]
    assert answer.token_ids.tolist() == engines.expected(grown)
    assert engine.counters["reused"] - before["reused"] >= 60
    # The same ids with another picture share only what comes before it.
    before = engine.counters
    engine.generate([replace(grown, images=(B,))])
    start = int(engines.vision.slots(grown.prompt_ids, [engines.vision.read(A)])[0])
    assert engine.counters["reused"] - before["reused"] <= start


def test_without_reuse_and_under_preemption_the_answers_are_the_same(engines: Case) -> None:
    requests = [replace(r, sampling=SAMPLED, seed=i) for i, r in enumerate(talks(engines))]
    expected = engines.make().generate(requests)
    longest = max(len(request.prompt_ids) for request in requests) + 12
    config: Any = engines.loaded.model.config.get_text_config()
    page = 32 * 2 * 2 * config.num_key_value_heads * 16 * 4
    for options in (
        {"reuse": False},
        {"chunk": 32},
        {"memory": page * (longest // 32 + 3), "chunk": 32},
    ):
        engine = engines.make(**options)
        found = engine.generate(requests)
        for one, two in zip(expected, found, strict=True):
            assert one.token_ids.tolist() == two.token_ids.tolist(), options


def test_other_questions_about_pictures(engines: Case) -> None:
    engine = engines.make()
    request = engines.ask(user("Is it noise?", A))
    ids, images = request.prompt_ids, request.images
    yes, no = [40, 41], [50]
    with torch.inference_mode():
        untyped: Any = engines.loaded.model
        out = untyped(**engines.inputs(ids, images), output_hidden_states=True)
        p = out.logits[0, -1].softmax(-1)
    expected = float(p[yes].sum() / (p[yes].sum() + p[no].sum()))
    assert engine.yes_no(ids, yes, no, images=images) == pytest.approx(expected, abs=1e-4)
    other = engine.yes_no(ids, yes, no, images=(B,))
    assert abs(other - expected) > 1e-4
    words = [np.array([40, 41], np.int32), np.array([50], np.int32)]
    scores = engine.choices(ids, words, images=images)
    assert scores[1] == pytest.approx(float(p[50].log()), abs=1e-4)
    (states,) = engine.features([ids], -1, images=[images])
    np.testing.assert_allclose(states, out.hidden_states[-1][0].numpy(), atol=1e-3)
    vectors = engine.embed([ids, ids], "last", images=[(A,), (B,)])
    np.testing.assert_allclose(vectors[0], states[-1], atol=1e-4)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_features_are_kept_within_a_budget(loaded: LoadedModel) -> None:
    assert loaded.vision is not None
    pictures = [loaded.vision.read(image) for image in (A, B, C)]
    sights = Sights(loaded.model, loaded.vision, budget=1)
    for picture in (pictures[0], pictures[0], pictures[1], pictures[0]):
        sights.features(picture)
    assert sights.runs == 3
    sights.forget()
    sights.features(pictures[0])
    assert sights.runs == 4


def test_keys_name_the_content(loaded: LoadedModel) -> None:
    assert loaded.vision is not None
    sights = Sights(loaded.model, loaded.vision)
    ids = np.array([40, *loaded.vision.ids(A), 41], np.int32)
    one, two, three = (sights.see(ids, (image,)) for image in (A, B, A))
    assert (one.keys == three.keys).all()
    assert set(one.keys[one.slots].tolist()).isdisjoint(two.keys[two.slots].tolist())
    outside = np.setdiff1d(np.arange(len(ids)), one.slots)
    assert (one.keys[outside] == ids[outside]).all()
    assert (one.keys[one.slots] < 0).all()


def test_an_overlay_of_nothing_is_none(loaded: LoadedModel) -> None:
    assert loaded.vision is not None
    device = torch.device("cpu")
    sight = Sights(loaded.model, loaded.vision).see(
        np.array([40, *loaded.vision.ids(A), 41], np.int32), (A,)
    )
    after = len(sight.keys) + 3
    found = overlay([(None, 0, 5, "policy"), (sight, after, 1, "policy")], device)
    if sight.positions is None:
        assert found is None
    else:
        assert found is not None
        assert found.positions is not None
        assert found.features is None
        assert found.positions[0].tolist() == [0, 1, 2, 3, 4, after + sight.shift]


# Two more structures, built here: features of one layer's patches (LLaVA), and pictures that are
# also added to hidden states (Qwen3-VL).


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _template(shown: str) -> str:
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}" + shown + "{% else %}{{ p['text'] }}{% endif %}"
        "{% endfor %}<|im_end|>{% endfor %}<|im_start|>assistant "
    )


def llava() -> tuple[Any, Any]:
    tokenizer: Any = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<image>"]})
    images: Any = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    made: Any = LlavaProcessor
    processor = made(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.3,
    }
    config: Any = LlavaConfig(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config=vision,
        image_token_index=processor.image_token_id,
    )
    return LlavaForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    tokenizer: Any = tiny_tokenizer()
    tags = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *tags]})
    images: Any = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 96 * 96}
    )
    template = _template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = stills_only(Qwen3VLProcessor)(images, tokenizer, chat_template=template)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "depth": 3,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.3,
    }
    ids = [tokenizer.convert_tokens_to_ids(tag) for tag in tags]
    config: Any = Qwen3VLConfig(
        text_config={"head_dim": 16, "rope_parameters": rope, **_text(tokenizer)},
        vision_config=vision,
        image_token_id=ids[0],
        video_token_id=ids[1],
        vision_start_token_id=ids[2],
        vision_end_token_id=ids[3],
    )
    return Qwen3VLForConditionalGeneration(config), processor


@pytest.fixture(scope="module", params=[llava, qwen3_vl], ids=["llava", "qwen3_vl"])
def other(request: pytest.FixtureRequest) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = request.param()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return LoadedModel(model.eval(), processor.tokenizer, "other", Vision(processor))


@pytest.mark.parametrize("way", WAYS)
def test_other_structures_answer_as_transformers_does(other: LoadedModel, way: str) -> None:
    case = Case(other, WAYS[way])
    backend = case.make(other)
    requests = talks(case)
    for request, answer in zip(requests, backend.generate(requests), strict=True):
        assert answer.error == ""
        assert answer.token_ids.tolist() == case.expected(request)
    texts = [np.concatenate([requests[0].prompt_ids, np.array([40, 41, 42], np.int32)])]
    (found,) = backend.logprobs(texts, [5], images=[requests[0].images])
    np.testing.assert_allclose(found, case.scores(texts[0], requests[0].images, 5), atol=1e-4)
    backend.close()


def test_training_refuses_models_that_do_more_with_pictures(other: LoadedModel) -> None:
    assert other.vision is not None
    sights = Sights(other.model, other.vision)
    if other.model.config.model_type == "llava":
        check_embeddings(other.model, sights)
    else:
        with pytest.raises(ConfigError, match="hidden states too"):
            check_embeddings(other.model, sights)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY_VLMS)
def test_an_accelerator_answers_alike(name: str) -> None:
    here = Case(load_model(name, dtype="float32", device="cpu"), Engine)
    there = load_model(name, dtype="float32", device="cuda")
    requests = talks(here)
    expected = [here.expected(request) for request in requests]
    for way in WAYS.values():
        backend = way(there)
        answers = backend.generate(requests)
        assert [answer.token_ids.tolist() for answer in answers] == expected
        backend.close()
