"""Pictures among the parts of messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from llm_serving.errors import InvalidRequest, UnsupportedParameter

TYPES = ("image_url", "input_image")  # of a part; `/responses` has the second
_DETAILS = ("auto", "high", "low")


class Picture(TypedDict):
    """Plain values, as messages are kept as JSON."""

    url: str
    where: str  # the field of the request that holds it
    is_low: bool  # as little of it as the model can look at


Part = str | Picture


def read_picture(part: Mapping[str, Any], where: str) -> Picture:
    """A part of one of `TYPES`, which stands at `where` in the body.

    Raises: InvalidRequest that names the field, UnsupportedParameter.
    """
    if part.get("file_id") is not None:
        raise UnsupportedParameter(
            f"{where}.file_id", "Send the image itself, as a data: URL in 'image_url'."
        )
    field, detail, detail_field = f"{where}.image_url", part.get("detail"), f"{where}.detail"
    value: Any = part.get("image_url")
    if isinstance(value, Mapping):
        if "detail" in value:
            detail, detail_field = value["detail"], f"{field}.detail"
        field, value = f"{field}.url", value.get("url")
    if not isinstance(value, str):
        raise InvalidRequest(f"'{field}' must be a text, the image's data: URL.", field)
    if detail is not None and detail not in _DETAILS:
        raise InvalidRequest(f"'{detail_field}' must be one of {', '.join(_DETAILS)}.", detail_field)
    return Picture(url=value, where=field, is_low=detail == "low")


def pictures_in(messages: Iterable[Mapping[str, Any]]) -> list[Picture]:
    """In the order they are looked at."""
    return [part for message in messages for part in message.get("parts", ()) if not isinstance(part, str)]


def text_in(parts: Sequence[Part]) -> str:
    """What is said beside them."""
    return "\n".join(part for part in parts if isinstance(part, str))
