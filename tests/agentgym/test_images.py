"""Pictures by content."""

import numpy as np
import pytest

from agentgym.images import decode_image, encode_image


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
