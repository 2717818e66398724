"""`GET /health` (the process lives) and `GET /ready` (the model can answer)."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import services_of
from llm_serving.service.slot import ModelState


async def get_health(request: Request) -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")


async def get_ready(request: Request) -> Response:
    """200, or 503 with the state and the reason."""
    slot = services_of(request).registry.default
    if slot.state is ModelState.READY:
        body, status, headers = {"status": "ready", "model": slot.name}, 200, {}
    else:
        body = {"status": slot.state.value, "model": slot.name, "reason": slot.reason}
        status, headers = 503, {"retry-after": "5"}
    return Response(orjson.dumps(body), status, headers, "application/json")
