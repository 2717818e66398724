"""`data:` URLs (RFC 2397), the one kind of URL a picture may come as."""

from __future__ import annotations

import base64

from llm_serving.errors import InvalidRequest


def check_url(url: str, where: str) -> None:
    """Raises: InvalidRequest for all that is no base64 `data:` URL."""
    scheme = url[:5].lower()
    if scheme != "data:":
        raise InvalidRequest(
            f"'{where}' must be a data: URL with the image itself, such as data:image/png;base64,iVBORw0…; "
            "this server fetches nothing.",
            where,
        )
    header = url[:256].partition(",")[0]
    if not header.lower().endswith(";base64"):
        raise InvalidRequest(f"'{where}' must be a data: URL in base64: data:image/png;base64,….", where)


def bytes_of_url(url: str, where: str) -> bytes:
    """What a URL that passed `check_url` holds. Raises: InvalidRequest if that is not base64."""
    return bytes_of_base64(url.partition(",")[2], where)


def bytes_of_base64(text: str, where: str) -> bytes:
    """Raises: InvalidRequest for other characters, wrong padding, or nothing at all."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:  # of which its own error is one
        data = b""
    if not data:
        raise InvalidRequest(f"'{where}' holds no base64 of an image.", where)
    return data
