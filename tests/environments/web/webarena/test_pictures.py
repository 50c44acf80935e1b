import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentgym.environments.web.webarena import pictures
from agentgym.environments.web.webarena.pictures import (
    data_url,
    fetch_picture,
    opened,
    similarity,
    structural,
)
from agentgym.errors import ConfigError, EnvFailureError


def grid(step: int, start: int = 0) -> Any:
    y, x = np.mgrid[0:20, 0:24]
    return ((x * 7 + y * step + start) % 256).astype(np.float64)


def png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_structural_similarity_is_that_of_scikit_image() -> None:
    assert structural(grid(13), grid(13)) == pytest.approx(1.0)
    assert structural(grid(13), grid(11, 5)) == pytest.approx(0.5816898947295683, abs=1e-9)
    assert structural(grid(13), 255 - grid(13)) == pytest.approx(-0.763827775004609, abs=1e-9)
    # Flat pictures by hand: (2 * 100 * 200 + c1) / (100^2 + 200^2 + c1), c1 = 2.55^2
    flat = np.full((9, 9), 100.0)
    assert structural(flat, 2 * flat) == pytest.approx((40000 + 6.5025) / (50000 + 6.5025))
    assert structural(flat[:3], flat[:3]) == 1.0
    assert structural(flat[:3], flat[:3] + 1) == 0.0


def test_pictures_of_two_sizes_are_compared() -> None:
    small = opened(png(grid(13)))
    large = small.resize((48, 40))
    other = opened(png(255 - grid(13)))
    assert similarity(small, large) > 0.8 > similarity(small, other)


def test_bytes_that_are_no_picture_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"<svg/>", png(grid(1))[:40]):
        with pytest.raises(ConfigError, match="no picture"):
            opened(data)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    with pytest.raises(ConfigError, match="too large"):
        opened(png(grid(1)))


def test_pictures_for_a_judge_are_small() -> None:
    url = data_url(png(np.zeros((600, 1200))), 100)
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < 3000


def test_pictures_are_fetched_or_it_is_told(tmp_path: Path, serve: Any) -> None:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"bytes")

    (tmp_path / "a.png").write_bytes(b"here")
    assert fetch_picture(str(tmp_path / "a.png")) == b"here"
    home = serve({"/a.png": answer})
    assert fetch_picture(f"{home}/a.png") == b"bytes"
    for url in (f"{home}/none.png", str(tmp_path / "none.png"), "http://["):
        with pytest.raises(EnvFailureError, match="cannot be had"):
            fetch_picture(url)
