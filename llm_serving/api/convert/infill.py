"""`/infill`: body → what is asked for."""

from __future__ import annotations

from llm_serving.api.schemas.infill import InfillRequest
from llm_serving.service.infill import Infill


def to_infill(body: InfillRequest) -> Infill:
    files = [(each.filename or "", each.text) for each in body.input_extra or ()]
    return Infill(body.input_prefix or "", body.input_suffix or "", body.prompt or "", files)
