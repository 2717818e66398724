"""What Ollama's API says of models and itself, and what it does to models, which is not done here."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert.ollama_models import listed, running, shown
from llm_serving.api.deps import read_json, services_of, validate
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.schemas.neutral import OLLAMA_PULL, OLLAMA_SHOW, Neutral, ignored_fields
from llm_serving.api.schemas.ollama import OllamaModelRequest, OllamaPullRequest
from llm_serving.api.sse import LineStream
from llm_serving.errors import InvalidRequest
from llm_serving.service.residency import AnySlot

API_VERSION = "0.14.0"  # of Ollama, whose clients ask it to know what they may send

Named = TypeVar("Named", bound=OllamaModelRequest)


async def list_tags(request: Request) -> Response:
    """All models of this server, loaded or not, and adapters."""
    registry = services_of(request).registry
    adapters = [listed(registry.first, adapter) for adapter in registry.adapters]
    return JsonResponse({"models": [*(listed(slot) for slot in registry.slots()), *adapters]})


async def list_running(request: Request) -> Response:
    """Those that are loaded."""
    services = services_of(request)
    after_s = services.settings.unload_after_s
    loaded = [(slot, slot.model) for slot in services.registry.slots() if slot.model is not None]
    return JsonResponse({"models": [running(slot, model, after_s) for slot, model in loaded]})


async def show_model(request: Request) -> Response:
    """Names and aliases; unknown ones are 404 here, whatever other routes answer with."""
    body, slot, headers = await _named(request, OllamaModelRequest, OLLAMA_SHOW)
    services = services_of(request)
    adapter = services.registry.adapter(body.model or body.name)
    return JsonResponse(shown(slot, services.settings, adapter), headers=headers)


async def pull_model(request: Request) -> Response:
    """What is served is here. Raises: ModelNotFound."""
    body, _, headers = await _named(request, OllamaPullRequest, OLLAMA_PULL)
    kind = "application/json" if body.stream is False else LineStream.media_type
    return Response(b'{"status":"success"}\n', headers=headers, media_type=kind)


async def get_version(request: Request) -> Response:
    """Of the API, as Ollama counts."""
    return JsonResponse({"version": API_VERSION})


async def refuse_change(request: Request) -> Response:
    """Raises: InvalidRequest."""
    raise InvalidRequest(
        "Models are not created, copied, uploaded or deleted over HTTP here. 'llm-serving models' manages "
        "them, and 'llm-serving serve NAME' chooses what is served."
    )


async def _named(
    request: Request, schema: type[Named], neutral: Neutral
) -> tuple[Named, AnySlot, dict[str, str]]:
    """The body, its model, and the headers that list what is ignored.

    Raises: InvalidRequest, ModelNotFound.
    """
    services = services_of(request)
    body = validate(schema, await read_json(request))
    headers = ignored_fields(body.model_extra or {}, neutral, strict=services.settings.strict_parameters)
    name = body.model or body.name
    if not name:
        raise InvalidRequest("'model' is required.", "model")
    return body, services.registry.exact(name), headers
