"""Pictures in OpenAI's wire format: ``image_url`` parts with ``data:`` URLs, in both directions."""

from dataclasses import dataclass
from typing import Any

from agentgym.errors import ImageError
from agentgym.images import data_url, from_data_url
from agentgym.types import Image, Message


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a server grants one request."""

    count: int = 16
    """Most pictures."""
    file_bytes: int = 16 << 20
    """Largest file."""
    pixels: int = 1 << 23
    """Most pixels of a picture: 8.4 million, a 4K screen."""


def read_content(
    content: Any, allowed: PictureLimits | None, already: int = 0
) -> tuple[str, tuple[tuple[int, Image], ...]] | None:
    """A message's content: a text, or a list of text and ``image_url`` parts.

    Args:
        content: as received.
        allowed: limits; `None` where no pictures are read.
        already: pictures of the request that were read before.

    Returns:
        Text and pictures as in `Message`; `None` if it has another form.

    Raises:
        ImageError: a picture is refused; says why.
    """
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        return None
    text = ""
    images: list[tuple[int, Image]] = []
    for part in content:
        if not isinstance(part, dict):
            return None
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            text += part["text"]
            continue
        url = part.get("image_url") if part.get("type") == "image_url" else None
        url = url.get("url") if isinstance(url, dict) else url
        if not isinstance(url, str):
            return None
        if allowed is None:
            raise ImageError("this model reads no pictures; send text parts only")
        check_count(already + len(images) + 1, allowed)  # before any pixel is unpacked
        images.append((len(text), read_picture(url, allowed)))
    return text, tuple(images)


def read_picture(url: str, allowed: PictureLimits) -> Image:
    """The picture in a ``data:`` URL; nothing is ever fetched.

    Raises:
        ImageError: it is refused; says why.
    """
    return from_data_url(url, max_bytes=allowed.file_bytes, max_pixels=allowed.pixels)


def check_count(images: int, allowed: PictureLimits | None) -> None:
    """Refuse too many pictures of one request.

    Raises:
        ImageError: there are more than is granted.
    """
    most = 0 if allowed is None else allowed.count
    if images > most:
        raise ImageError(f"the request has {images} pictures or more, at most {most} are read")


def write_message(message: Message) -> dict[str, Any]:
    """A message as chat servers take it.

    Raises:
        ImageError: a picture comes without its bytes.
    """
    if not message.images:
        return {"role": message.role, "content": message.content}
    parts = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in message.parts
    ]
    return {"role": message.role, "content": parts}
