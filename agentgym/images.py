"""Pictures by content: PNG bytes named by their hash."""

import base64
import hashlib
import io
import re
import warnings

import numpy as np

from agentgym.errors import ImageError
from agentgym.types import Image, ImageArray

MAX_PIXELS = 1 << 24
"""Most pixels of a picture that is read: 16.8 million, 50 MB once unpacked."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"data:image/(png|jpeg|jpg|webp);base64", re.IGNORECASE)


def encode_image(pixels: ImageArray) -> Image:
    """(H, W, 3) uint8 RGB to a PNG named by the hash of the file.

    Raises:
        ValueError: another shape or type.
    """
    from PIL import Image as Pillow

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"an image is (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}; convert it to RGB"
        )
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    data = buffer.getvalue()
    return Image(hashlib.sha256(data).hexdigest(), data)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """The bytes of a PNG, JPEG or WebP file to (H, W, 3) uint8 RGB.

    The size that the file's head tells is checked before any pixel is unpacked.

    Args:
        data: the file.
        max_pixels: most pixels that are unpacked.

    Raises:
        ImageError: the bytes are no such picture, are damaged, or hold more pixels.
    """
    from PIL import Image as Pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            with Pillow.open(io.BytesIO(data), formats=_FORMATS) as picture:
                width, height = picture.size
                if width * height > max_pixels:
                    raise ImageError(
                        f"a picture of {width} x {height} pixels is more than {max_pixels} "
                        "pixels; make it smaller"
                    )
                return np.asarray(picture.convert("RGB"))
    except ImageError:
        raise
    except (Pillow.DecompressionBombWarning, Pillow.DecompressionBombError) as error:
        raise ImageError(f"a picture is too large: {error}") from error
    except Exception as error:  # decoders raise what they like on damaged files
        raise ImageError(
            f"{len(data)} bytes are no PNG, JPEG or WebP picture ({type(error).__name__}: "
            f"{error!s:.100})"
        ) from error


def data_url(image: Image) -> str:
    """A picture as a ``data:`` URL, as chat servers take it.

    Raises:
        ImageError: it comes without its bytes.
    """
    if image.data is None:
        raise ImageError(f"picture {image.sha256!r} comes without its bytes; load them first")
    return f"data:image/png;base64,{base64.b64encode(image.data).decode('ascii')}"


def from_data_url(url: str, *, max_bytes: int, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture in a ``data:`` URL, as a PNG; equal pixels have equal names.

    Nothing is ever fetched: any other URL is refused.

    Args:
        url: ``data:image/png;base64,...``, likewise jpeg and webp.
        max_bytes: largest file.
        max_pixels: see `decode_image`.

    Raises:
        ImageError: another kind of URL, or not a picture within the limits.
    """
    head, comma, content = url.partition(",")
    if not comma or not _DATA_URL.fullmatch(head):
        raise ImageError(
            f"a picture must be a data: URL (data:image/png;base64,...), got {url[:40]!r}; "
            "nothing is fetched from elsewhere"
        )
    if len(content) > 4 * (max_bytes // 3 + 1):
        raise ImageError(f"a picture has more than {max_bytes} bytes; make it smaller")
    try:
        data = base64.b64decode(content, validate=True)
    except ValueError as error:
        raise ImageError(f"a picture's base64 is damaged: {error}") from error
    return encode_image(decode_image(data, max_pixels=max_pixels))
