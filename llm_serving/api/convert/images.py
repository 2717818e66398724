"""Images as other APIs send them → the parts of a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_serving.chat.messages import Message
from llm_serving.chat.pictures import Part, Picture, text_in
from llm_serving.errors import InvalidRequest

_IN_PLACE = {"type": "text", "text": "[image]"}
_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")


def anthropic_picture(block: Mapping[str, Any], where: str) -> Picture:
    """A block of type image. Raises: InvalidRequest that names the field."""
    source, at = block.get("source"), f"{where}.source"
    if not isinstance(source, Mapping):
        raise InvalidRequest(f"'{at}' must be an object with 'type', 'media_type' and 'data'.", at)
    if source.get("type") != "base64":
        raise InvalidRequest(
            f"'{at}.type' must be base64, with the image in 'data'; this server fetches nothing.",
            f"{at}.type",
        )
    if source.get("media_type") not in _MEDIA_TYPES:
        raise InvalidRequest(
            f"'{at}.media_type' must be one of {', '.join(_MEDIA_TYPES)}.", f"{at}.media_type"
        )
    return _of_base64(source.get("data"), f"{at}.data")


def ollama_pictures(images: Any, where: str) -> list[Picture]:
    """A list of base64 texts, or null. Raises: InvalidRequest that names the item."""
    if images is None:
        return []
    if not isinstance(images, list):
        raise InvalidRequest(f"'{where}' must be a list of images in base64.", where)
    return [_of_base64(image, f"{where}.{i}") for i, image in enumerate(images)]


def split_pictures(
    content: Any, where: str, kind: str, read: Callable[[Mapping[str, Any], str], Picture]
) -> tuple[Any, list[Part]]:
    """A function's result without its pictures, in whose places it says so, and these, which `read` reads.

    Templates show pictures of users only, so the user shows them, behind the results. What is no list stays
    as it is. Raises: what `read` raises.
    """
    if not isinstance(content, list):
        return content, []
    told: list[Any] = []
    pictures: list[Part] = []
    for i, part in enumerate(content):
        is_picture = isinstance(part, Mapping) and part.get("type") == kind
        told.append(_IN_PLACE if is_picture else part)
        if is_picture:
            pictures.append(read(part, f"{where}.{i}"))
    return told, pictures


def with_parts(message: Message, parts: list[Part]) -> Message:
    """`message` with these parts as its content, if a picture is among them."""
    if any(not isinstance(part, str) for part in parts):
        message["content"] = text_in(parts)
        message["parts"] = parts
    return message


def _of_base64(data: Any, where: str) -> Picture:
    if not isinstance(data, str):
        raise InvalidRequest(f"'{where}' must be a text, the image in base64.", where)
    return Picture(url=f"data:;base64,{data}", where=where, is_low=False)
