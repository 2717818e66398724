"""`/batches`: requests of a file, answered while there are places to spare."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert.batches import batch_object
from llm_serving.api.convert.paging import page_of
from llm_serving.api.deps import owner_of, read_json, services_of, validate
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.schemas.batches import BatchRequest
from llm_serving.api.schemas.neutral import ignored_fields
from llm_serving.errors import InvalidRequest
from llm_serving.service.batch_lines import ENDPOINTS
from llm_serving.service.batches import Batch
from llm_serving.service.files import KEPT_S


async def create_batch(request: Request) -> Response:
    """Begin one; what is wrong with its file is told later, by its status."""
    services = services_of(request)
    body = validate(BatchRequest, await read_json(request))
    headers = ignored_fields(body.unknown_fields(), {}, strict=services.settings.strict_parameters)
    if body.endpoint not in ENDPOINTS:
        raise InvalidRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}.", "endpoint")
    kept_s = body.output_expires_after.seconds if body.output_expires_after else KEPT_S
    batch = services.batches.add(owner_of(request), body.endpoint, body.input_file_id, body.metadata, kept_s)
    return JsonResponse(batch_object(batch), headers=headers)


async def list_batches(request: Request) -> Response:
    """The latest first."""
    batches = services_of(request).batches.all_of(owner_of(request))
    return JsonResponse(page_of([batch_object(batch) for batch in batches], request.query_params))


async def get_batch(request: Request) -> Response:
    return JsonResponse(batch_object(_batch(request)))


async def cancel_batch(request: Request) -> Response:
    """End it with the results that are there."""
    batch = _batch(request)
    services_of(request).batches.cancel(batch)
    return JsonResponse(batch_object(batch))


def _batch(request: Request) -> Batch:
    """Raises: BatchNotKept."""
    return services_of(request).batches.get(owner_of(request), request.path_params["batch_id"])
