"""Pictures by content: PNG bytes named by their hash."""

import hashlib
import io

import numpy as np

from agentgym.types import Image, ImageArray


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


def decode_image(data: bytes) -> ImageArray:
    """PNG bytes to (H, W, 3) uint8 RGB."""
    from PIL import Image as Pillow

    with Pillow.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
