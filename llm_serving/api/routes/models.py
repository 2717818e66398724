"""`GET /models` and `GET /models/{id}`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import services_of
from llm_serving.api.json_response import JsonResponse
from llm_serving.service.adapters import NamedAdapter
from llm_serving.service.model import ChatModel, ModelKind
from llm_serving.service.registry import Registry
from llm_serving.service.residency import AnySlot
from llm_serving.service.slot import ModelState

_STATES = {
    ModelState.NOT_STARTED: "available",
    ModelState.AVAILABLE: "available",
    ModelState.LOADING: "loading",
    ModelState.READY: "loaded",
    ModelState.FAILED: "failed",
    ModelState.UNLOADING: "unloading",
    ModelState.UNLOADED: "unloaded",
}
_CAPABILITIES = {
    ModelKind.CHAT: ["chat", "completion"],
    ModelKind.EMBEDDING: ["embeddings", "rerank", "score"],
    ModelKind.RERANKER: ["rerank", "score"],
    ModelKind.CLASSIFIER: ["classify", "predict"],
}


async def list_models(request: Request) -> Response:
    """All that a request may name, adapters behind the models."""
    registry = services_of(request).registry
    models = [model_object(registry, slot) for slot in registry.slots()]
    adapters = [adapter_object(registry, adapter) for adapter in registry.adapters]
    return JsonResponse({"object": "list", "data": models + adapters})


async def get_model(request: Request) -> Response:
    """Names and aliases; unknown ones are 404 here, whatever other routes answer with."""
    registry, name = services_of(request).registry, request.path_params["model_id"]
    adapter = registry.adapter(name)
    if adapter is not None:
        return JsonResponse(adapter_object(registry, adapter))
    return JsonResponse(model_object(registry, registry.exact(name)))


def model_object(registry: Registry, slot: AnySlot) -> dict[str, Any]:
    """What the API says of a model: who it is, and the state it is in."""
    model, profile = slot.model, slot.profile
    facts: dict[str, Any] = {"context_length": profile.context_length if profile else None}
    sees = isinstance(model, ChatModel) and model.vision is not None
    if slot.kind is ModelKind.EMBEDDING:
        facts["dimensions"] = profile.dimensions if profile else None
    if profile is not None and profile.architecture:
        facts["architecture"] = profile.architecture
    return {
        "id": slot.name,
        "object": "model",
        "created": model.created if model else 0,
        "owned_by": "llm-serving",
        "aliases": registry.aliases(slot),
        "kind": slot.kind.value,
        "capabilities": _CAPABILITIES[slot.kind] + (["vision"] if sees else []),
        **facts,
        "state": _STATES[slot.state],
        **(model.details if model else {}),
    }


def adapter_object(registry: Registry, adapter: NamedAdapter) -> dict[str, Any]:
    """The same of an adapter: as its model, by its own name."""
    base = model_object(registry, registry.first)
    own = {"id": adapter.name, "aliases": [], "root": adapter.root, "parent": base["id"]}
    return {**base, **own}
