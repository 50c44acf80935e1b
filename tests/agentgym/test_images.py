"""Pictures by content."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from agentgym.errors import ImageError
from agentgym.images import data_url, decode_image, encode_image, from_data_url
from agentgym.types import Image


def test_round_trip_and_name_by_content() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    image = encode_image(pixels)
    assert image.data is not None
    np.testing.assert_array_equal(decode_image(image.data), pixels)
    assert encode_image(pixels.copy()).sha256 == image.sha256
    assert encode_image(255 - pixels).sha256 != image.sha256


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_other_shapes_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="H, W, 3"):
        encode_image(wrong)


def test_a_data_url_gives_the_picture_back() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = encode_image(pixels)
    back = from_data_url(data_url(image), max_bytes=1 << 16)
    assert back == image
    assert back.data == image.data
    with pytest.raises(ImageError, match="without its bytes"):
        data_url(Image("ab"))


def test_other_formats_become_the_same_kind_of_record() -> None:
    pixels = np.full((8, 8, 3), 200, np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    url = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    assert from_data_url(url, max_bytes=1 << 16) == encode_image(pixels)


def _png_that_claims(width: int, height: int) -> bytes:
    """A PNG's head with a size, and a few compressed bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data) for kind, data in ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "no PNG"),
        (_png_that_claims(5000, 4000), "more than 16777216 pixels"),
        (_png_that_claims(60000, 60000), "too large"),
        (_png_that_claims(100, 100), "no PNG"),  # ends too early
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode_image(data)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    with pytest.raises(ImageError, match=words):
        from_data_url(url, max_bytes=1 << 20)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/a.png", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("data:text/html;base64,AAAA", "must be a data: URL"),
        ("data:image/png,AAAA", "must be a data: URL"),
        ("data:image/png;base64,@@@@", "base64 is damaged"),
        ("data:image/png;base64," + "A" * 2000, "more than 1000 bytes"),
    ],
)
def test_other_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        from_data_url(url, max_bytes=1000)
