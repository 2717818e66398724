"""`GET /metrics`, for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import services_of
from llm_serving.ops.metrics import CONTENT_TYPE


async def get_metrics(request: Request) -> Response:
    return Response(services_of(request).metrics.render(), media_type=CONTENT_TYPE)
