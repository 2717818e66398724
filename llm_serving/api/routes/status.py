"""`GET /chat`: whether the service was started, and with what."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import services_of
from llm_serving.api.json_response import JsonResponse
from llm_serving.service.model import ModelKind

NOT_STARTED = {"status": "not started", "message": "You need to start the service first."}


async def get_status(request: Request) -> Response:
    """The live configuration; "not started" while the first model cannot answer."""
    services = services_of(request)
    slot = services.registry.first
    if not slot.can_answer:
        return JsonResponse(NOT_STARTED)
    settings = services.settings
    embedding = services.registry.embedding
    host, port = request.scope.get("server") or (settings.host, settings.port)
    return JsonResponse(
        {
            "status": "running",
            "llm_serving_url": f"http://{f'[{host}]' if ':' in host else host}:{port or settings.port}",
            "model_name": slot.name if slot.kind is ModelKind.CHAT else None,
            "max_new_tokens": settings.max_new_tokens,
            "device": slot.model.device if slot.model else settings.device,
            "do_sample": settings.do_sample,
            "system_prompt": settings.system_prompt,
            "embedding_model": embedding.name if embedding and embedding.can_answer else None,
        }
    )
