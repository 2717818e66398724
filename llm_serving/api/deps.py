"""What routes need of the app: its services, the key check, the body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from llm_serving.api.errors import from_validation
from llm_serving.config import Settings
from llm_serving.errors import InvalidRequest
from llm_serving.ops.auth import KeyRing
from llm_serving.ops.metrics import Metrics
from llm_serving.service.batches import BatchStore
from llm_serving.service.chat import ChatService
from llm_serving.service.classification import ClassificationService
from llm_serving.service.completion import CompletionService
from llm_serving.service.embedding import EmbeddingService
from llm_serving.service.files import FileStore
from llm_serving.service.registry import Registry
from llm_serving.service.reranking import RerankService
from llm_serving.service.responses import ResponseStore
from llm_serving.service.tokens import TokenService

if TYPE_CHECKING:
    from llm_serving.ops.trace_export import Tracing

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything an app is made of; `create_app` builds it, `app.state.services` holds it."""

    settings: Settings
    registry: Registry
    chat: ChatService
    completion: CompletionService
    embedding: EmbeddingService
    rerank: RerankService
    classification: ClassificationService
    tokens: TokenService
    responses: ResponseStore
    files: FileStore
    batches: BatchStore
    metrics: Metrics
    keys: KeyRing
    tracing: Tracing | None = None


def services_of(request: Request) -> Services:
    """The services of the app that answers `request`."""
    return cast(Services, request.app.state.services)


async def require_key(request: Request) -> None:
    """Remembers which key it was. Anthropic's clients have a header of their own for it.

    Raises: AuthError.
    """
    batch_key = request.scope["state"].get("batch_key")  # a batch, whose key was looked at when it was made
    if batch_key is not None:
        request.state.fairness_key = batch_key
        return
    header = None
    for name, value in request.scope["headers"]:
        if name == b"authorization":
            header = value
            break
        if name == b"x-api-key":
            header = b"Bearer " + value
    request.state.fairness_key = services_of(request).keys.check(header)


def fairness_key_of(request: Request) -> str:
    """Whose request it is, for taking turns; the same for all on a server without keys."""
    return cast(str, request.state.fairness_key)


def owner_of(request: Request) -> str:
    """Whose files and batches a request may see: as `fairness_key_of`, and the same after a restart."""
    return services_of(request).keys.owner(fairness_key_of(request))


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises: InvalidRequest (not JSON, not UTF-8, NaN, too deep, not an object), BodyTooLarge.
    """
    body = await request.body()
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The body must be a JSON object.")
    request.scope["state"]["asked_model"] = data.get("model")
    return data


def validate(schema: type[Body], data: dict[str, Any]) -> Body:
    """Check `data`. Raises: InvalidRequest that names the first wrong field by its dotted path."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise from_validation(error) from None
