"""Pictures on pages and in task files: read, made small, and compared by structural similarity."""

import base64
import io
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from agentgym.errors import ConfigError, EnvFailureError

if TYPE_CHECKING:
    from PIL import Image

Grey = npt.NDArray[np.float64]
THRESHOLD = 0.8
"""Pictures at least so similar count as the same, unless a task says otherwise."""
MAX_BYTES = 20_000_000
MAX_PIXELS = 1 << 25
TIMEOUT_S = 20.0
_WINDOW = 7
LIST = """((selector) => {
  const found = selector
    ? [...document.querySelectorAll(selector)].flatMap((e) =>
        e.localName === "img" ? [e] : [...e.querySelectorAll("img")])
    : [...document.querySelectorAll("img, [role=img]")].filter((e) => e.checkVisibility());
  const named = found.map((e) => e.getAttribute("src")).filter(Boolean);
  return named.map((src) => new URL(src, document.baseURI).href);
})"""
"""The addresses of the pictures that a selector names, or of all that are seen."""


def fetch_picture(url: str) -> bytes:
    """The bytes of a picture, by this process and not by the agent's browser.

    Args:
        url: http or https; or the path of a file, which task files may name.

    Raises:
        EnvFailureError: it cannot be had.
    """
    try:
        if not url.startswith(("http://", "https://")):
            with open(url, "rb") as file:
                return file.read(MAX_BYTES)
        request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read(MAX_BYTES))
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise EnvFailureError(f"the picture {url} cannot be had: {error}") from error


def opened(data: bytes) -> "Image.Image":
    """A picture's pixels.

    Raises:
        ConfigError: the bytes are no picture, or one too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise ConfigError(f"a picture of {picture.width} x {picture.height} is too large")
        return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{len(data)} bytes are no picture: {error}") from error


def data_url(data: bytes, most: int = 512) -> str:
    """A picture as the address of a JPEG, at most so many pixels wide and high.

    Raises:
        ConfigError: the bytes are no picture.
    """
    picture = opened(data)
    picture.thumbnail((most, most))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def similarity(one: "Image.Image", other: "Image.Image") -> float:
    """How alike two pictures are once both are as large as the larger one; 1 is the same.

    Source: as VisualWebArena compares them (arXiv 2401.13649): grey, Lanczos, `structural`.
    """
    from PIL import Image

    size = (max(one.width, other.width), max(one.height, other.height))
    grey = [
        np.asarray(each.resize(size, Image.Resampling.LANCZOS).convert("L"), np.float64)
        for each in (one, other)
    ]
    return structural(grey[0], grey[1])


def structural(one: Grey, other: Grey) -> float:
    """Mean structural similarity over windows of 7 x 7.

    Source: Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, eq. 13, with sample
    covariances and without the borders, as scikit-image computes it.

    Args:
        one: (H, W) grey, in [0, 255].
        other: (H, W)

    Returns:
        In [-1, 1]; for pictures smaller than a window 1 if they are equal, else 0.
    """
    if min(one.shape) < _WINDOW:
        return float(np.array_equal(one, other))
    count = _WINDOW * _WINDOW
    mean_x, mean_y = _means(one), _means(other)
    sample = count / (count - 1)
    var_x = sample * (_means(one * one) - mean_x * mean_x)
    var_y = sample * (_means(other * other) - mean_y * mean_y)
    both = sample * (_means(one * other) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(np.mean(above / below))


def _means(values: Grey) -> Any:
    """(H - 6, W - 6) of all windows."""
    sums = np.pad(np.cumsum(np.cumsum(values, 0), 1), ((1, 0), (1, 0)))
    w = _WINDOW
    return (sums[w:, w:] - sums[:-w, w:] - sums[w:, :-w] + sums[:-w, :-w]) / (w * w)
