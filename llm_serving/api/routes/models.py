"""`GET /models` and `GET /models/{id}`."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import services_of
from llm_serving.service.registry import Registry
from llm_serving.service.slot import ModelSlot, ModelState

_STATES = {
    ModelState.NOT_STARTED: "available",
    ModelState.LOADING: "loading",
    ModelState.READY: "loaded",
    ModelState.FAILED: "failed",
    ModelState.UNLOADED: "available",
}


async def list_models(request: Request) -> Response:
    registry = services_of(request).registry
    return _json({"object": "list", "data": [_model(registry, slot) for slot in registry.slots()]})


async def get_model(request: Request) -> Response:
    """Names and aliases; unknown ones are 404 here, whatever other routes answer with."""
    registry = services_of(request).registry
    return _json(_model(registry, registry.exact(request.path_params["model_id"])))


def _model(registry: Registry, slot: ModelSlot) -> dict[str, Any]:
    model = slot.model
    return {
        "id": slot.name,
        "object": "model",
        "created": model.created if model else 0,
        "owned_by": "llm-serving",
        "aliases": registry.aliases(slot),
        "capabilities": ["chat", "completion"],
        "context_length": model.engine.max_context if model else None,
        "state": _STATES[slot.state],
        **(model.details if model else {}),
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
