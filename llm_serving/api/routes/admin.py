"""`POST /admin/models/{id}/load` and `…/unload`: the models of this server, and no others."""

from __future__ import annotations

from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import read_json, services_of
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.routes.models import model_object
from llm_serving.api.schemas.neutral import ignored_fields
from llm_serving.config import flag_name
from llm_serving.errors import Forbidden
from llm_serving.service.registry import Registry
from llm_serving.service.residency import AnySlot


async def load_model(request: Request) -> Response:
    """Answers when the model is loaded, or why it is not. A client that leaves does not stop it."""
    headers = await _checked(request)
    registry = services_of(request).registry
    slot = await until_disconnect(request.receive, registry.load(request.path_params["model_id"]))
    return _answer(registry, slot, headers)


async def unload_model(request: Request) -> Response:
    """Answers when running requests have ended and the memory is given back."""
    headers = await _checked(request)
    registry = services_of(request).registry
    name = registry.whole(request.path_params["model_id"]).name
    remedy = f"Load it with POST /admin/models/{quote(name)}/load."
    slot = await until_disconnect(request.receive, registry.unload(name, remedy))
    return _answer(registry, slot, headers)


async def _checked(request: Request) -> dict[str, str]:
    """The headers that list what is ignored of the body, which may be empty: nothing in it is needed.

    Raises: Forbidden (anybody may come in here, a page in a browser of this machine too), InvalidRequest.
    """
    services = services_of(request)
    if services.keys.is_open:
        raise Forbidden(
            "Models are loaded and unloaded only where an API key is needed: start the server with "
            f"{flag_name('api_key')}, and send the key."
        )
    body = await read_json(request) if await request.body() else {}
    return ignored_fields(body, {}, strict=services.settings.strict_parameters)


def _answer(registry: Registry, slot: AnySlot, headers: dict[str, str]) -> Response:
    """As `GET /models/{id}`."""
    answer = orjson.dumps(model_object(registry, slot))
    return JsonResponse(answer, headers=headers)
