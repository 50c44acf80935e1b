import numpy as np
import pytest

from agentgym.core import GenerationRequest, InferenceBackend
from agentgym.errors import ConfigError
from agentgym.inference.scripted import ScriptedBackend
from agentgym.models.tiny import tiny_model

REQUESTS = [GenerationRequest(np.array([1], np.int32), seed=seed) for seed in range(3)]


def test_answers_come_in_order_and_begin_again() -> None:
    backend = ScriptedBackend(["a", "b"])
    assert isinstance(backend, InferenceBackend)
    assert [c.text for c in backend.generate(REQUESTS)] == ["a", "b", "a"]
    assert backend.generate(REQUESTS[:1])[0].text == "b"
    assert backend.requests == [*REQUESTS, REQUESTS[0]]


def test_a_script_may_end() -> None:
    answers = ScriptedBackend(["a", "b"], repeat=False).generate(REQUESTS)
    assert [c.text for c in answers] == ["a", "b", ""]
    assert [c.finish_reason for c in answers] == ["stop", "stop", "error"]
    assert "after 2 answers" in answers[2].error


def test_a_function_answers_each_request_and_fails_alone() -> None:
    backend = ScriptedBackend(lambda request: f"seed {6 // request.seed}")
    answers = backend.generate(REQUESTS)
    assert [c.text for c in answers] == ["", "seed 6", "seed 3"]
    assert "ZeroDivisionError" in answers[0].error


def test_without_a_tokenizer_nothing_is_told_about_tokens() -> None:
    answer = ScriptedBackend(["a"]).generate(REQUESTS[:1])[0]
    assert answer.token_ids is None
    assert answer.logprobs is None
    assert answer.entropy is None
    assert answer.kept_mass is None


def test_with_a_tokenizer_answers_are_certain_tokens() -> None:
    _, tokenizer = tiny_model()
    backend = ScriptedBackend(["click('a1')"], tokenizer)
    backend.load_weights({}, 4)
    answer = backend.generate(REQUESTS[:1])[0]
    assert answer.token_ids is not None
    assert answer.token_ids.dtype == np.int32
    assert tokenizer.decode(answer.token_ids.tolist()) == "click('a1')<|im_end|>"
    for values, value in [(answer.logprobs, 0), (answer.entropy, 0), (answer.kept_mass, 1)]:
        assert values is not None
        assert values.tolist() == [value] * len(answer.token_ids)
    assert answer.weights_version == 4
    assert backend.logprobs([answer.token_ids], [1])[0].tolist() == [0.0] * 11
    backend.close()


@pytest.mark.parametrize("script", [[], "click"])
def test_a_script_must_be_a_list_of_answers(script: list[str]) -> None:
    with pytest.raises(ConfigError, match="script"):
        ScriptedBackend(script)
