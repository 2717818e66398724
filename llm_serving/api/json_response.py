"""Responses of JSON, told in one piece."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


class JsonResponse(Response):
    """`content`: what orjson writes, up to 254 levels deep, or bytes that are JSON. Raises: TypeError."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content)
