"""A model as a judge: its own numbers, with and without pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agentgym.chat import chat_ids
from agentgym.errors import ConfigError
from agentgym.images import encode_image
from agentgym.models.load import LoadedModel, load_model
from agentgym.rewards.yes_no import _ASKED, YesNo
from agentgym.types import NO_TOKENS, EndReason, Image, Message, Task, Trajectory, Turn


def screen(seed: int) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return encode_image(pixels)


def episode(end: EndReason = EndReason.FAILURE, final: Image | None = None) -> Trajectory:
    turn = Turn("page", NO_TOKENS, False, None, "text", image=screen(0), action='click("1")')
    task = Task("agentgym/x-v0", 0, "Click OK.")
    outcome = float(end is EndReason.SUCCESS) if end.is_agents else None
    return Trajectory("a", task, (turn,), end, outcome, final_observation="done", final_image=final)


def expected(loaded: LoadedModel, text: str, images: list[Image]) -> float:
    """By the model's own forward pass."""
    vision = loaded.vision
    shown = Message("user", text, tuple((0, image) for image in images))
    ids = np.array(chat_ids(loaded.tokenizer, [Message("system", _ASKED), shown], vision), np.int32)
    inputs = {"input_ids": torch.as_tensor(ids[None], dtype=torch.long)}
    if images:
        assert vision is not None
        pictures = [vision.read(image) for image in images]
        inputs = vision.whole([ids], [pictures], loaded.model.device)
    with torch.inference_mode():
        p = loaded.model(**inputs).logits[0, -1].softmax(-1)
    yes, no = (
        sum(float(p[loaded.tokenizer.encode(letter)[0]]) for letter in letters)
        for letters in (("y", "Y"), ("n", "N"))
    )
    return yes / (yes + no)


TEXT = 'Goal: Click OK.\nActions: click("1")\nAt the end:\ndone'


@pytest.mark.parametrize("name", ["tiny", "tiny-vlm", "tiny-vlm-mrope"])
def test_the_score_is_the_models_own_probability(name: str) -> None:
    loaded = load_model(name, dtype="float32", device="cpu")
    judge = YesNo(loaded, screenshots=2)
    scores = []
    for final in (screen(1), screen(2)):
        (verdict,) = judge([episode(final=final)])
        images = [screen(0), final] if loaded.vision else []
        assert verdict.score == pytest.approx(expected(loaded, TEXT, images), abs=2e-4)
        assert ("of 2 pictures" in verdict.reason) == bool(loaded.vision)
        scores.append(verdict.score)
    assert (scores[0] != scores[1]) == bool(loaded.vision)
    judge.close()


def test_the_newest_pictures_are_shown_as_many_as_asked_for() -> None:
    loaded = load_model("tiny-vlm", dtype="float32", device="cpu")
    judge = YesNo(loaded)
    (verdict,) = judge([episode(final=screen(1))])
    assert verdict.score == pytest.approx(expected(loaded, TEXT, [screen(1)]), abs=2e-4)
    (blind,) = YesNo(loaded, screenshots=0)([episode(final=screen(1))])
    assert blind.score == pytest.approx(expected(loaded, TEXT, []), abs=2e-4)
    judge.close()


def test_what_cannot_be_judged_has_no_score() -> None:
    judge = YesNo(load_model("tiny-vlm", dtype="float32", device="cpu"))
    gone = episode(final=Image("ab"))
    endless = replace(episode(), task=Task("agentgym/x-v0", 0, "x" * 10_000))
    found = judge([episode(EndReason.UNJUDGED), gone, episode(EndReason.ENV_ERROR), endless])
    assert found[0].score is not None
    assert [verdict.score for verdict in found[1:]] == [None, None, None]
    assert "without its bytes" in found[1].reason
    assert "env_error" in found[2].reason
    assert "more than" in found[3].reason
    judge.close()


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="must not be negative"):
        YesNo("tiny", screenshots=-1)
