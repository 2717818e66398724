"""`GET /health` (the process lives) and `GET /ready` (the first model can answer)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import services_of
from llm_serving.api.json_response import JsonResponse
from llm_serving.service.residency import AnySlot


async def get_health(request: Request) -> Response:
    return JsonResponse(b'{"status":"ok"}')


async def get_ready(request: Request) -> Response:
    """200 when the default chat model, or what there is in its place, can answer, at once or when it is
    asked for; else 503 with its state and the reason. `models` has all.
    """
    registry = services_of(request).registry
    slot = registry.first
    body = {"status": slot.state.value, "model": slot.name}
    if not slot.can_answer:
        body["reason"] = slot.reason
    models = [_state(each) for each in registry.slots()]
    status, headers = (200, {}) if slot.can_answer else (503, {"retry-after": "5"})
    return JsonResponse({**body, "models": models}, status, headers)


def _state(slot: AnySlot) -> dict[str, str]:
    state = {"id": slot.name, "kind": slot.kind.value, "state": slot.state.value}
    return {**state, "reason": slot.reason} if slot.reason else state
