"""The table of routes; each stands with and without `/v1`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute
from starlette.types import Scope

from llm_serving.api.convert.anthropic_output import anthropic_error
from llm_serving.api.convert.ollama_output import ollama_error
from llm_serving.api.deps import require_key
from llm_serving.api.errors import error_response, note_error
from llm_serving.api.routes.admin import load_model, unload_model
from llm_serving.api.routes.batches import cancel_batch, create_batch, get_batch, list_batches
from llm_serving.api.routes.chat import create_chat_completion
from llm_serving.api.routes.classification import classify, predict
from llm_serving.api.routes.completion import create_completion
from llm_serving.api.routes.embedding import create_embeddings
from llm_serving.api.routes.files import create_file, delete_file, get_file, get_file_content, list_files
from llm_serving.api.routes.health import get_health, get_ready
from llm_serving.api.routes.inference import embed, embed_or_compare, get_info, similarity
from llm_serving.api.routes.kept_responses import (
    cancel_response,
    delete_response,
    get_response,
    list_input_items,
)
from llm_serving.api.routes.llama_cpp import continue_prompt, create_infill
from llm_serving.api.routes.messages import count_message_tokens, create_message
from llm_serving.api.routes.metrics import get_metrics
from llm_serving.api.routes.models import get_model, list_models
from llm_serving.api.routes.ollama import (
    ollama_chat,
    ollama_embed,
    ollama_embeddings,
    ollama_generate,
)
from llm_serving.api.routes.ollama_models import (
    get_version,
    list_running,
    list_tags,
    pull_model,
    refuse_change,
    show_model,
)
from llm_serving.api.routes.playground import get_root, static_endpoint
from llm_serving.api.routes.ranking import rerank, score
from llm_serving.api.routes.responses import count_response_tokens, create_response
from llm_serving.api.routes.status import get_status
from llm_serving.api.routes.tokens import apply_template, count_chat_tokens, detokenize, tokenize
from llm_serving.config import Settings
from llm_serving.errors import ServingError
from llm_serving.web.static_files import PAGE, static_files


class Route(NamedTuple):
    """One endpoint. It needs a key unless it says that it is public."""

    method: str
    path: str
    endpoint: Callable[[Request], Awaitable[Response]]
    is_public: bool = False
    to_error: Callable[[BaseException, str], Response] = error_response

    async def answer(self, request: Request) -> Response:
        """The endpoint's answer, or the error in the route's own shape."""
        try:
            if not self.is_public:
                await require_key(request)
            return await self.endpoint(request)
        except ServingError as error:
            note_error(request.scope, error)
            return self.to_error(error, request.scope["state"]["request_id"])


ROUTES = (
    Route("GET", "/", get_root, is_public=True),
    Route("GET", "/health", get_health, is_public=True),
    Route("GET", "/ready", get_ready, is_public=True),
    Route("GET", "/chat", get_status, is_public=True),
    Route("GET", "/metrics", get_metrics),
    Route("GET", "/models", list_models),
    Route("GET", "/models/{model_id:path}", get_model),
    Route("POST", "/admin/models/{model_id:path}/load", load_model),
    Route("POST", "/admin/models/{model_id:path}/unload", unload_model),
    Route("POST", "/chat/completions", create_chat_completion),
    Route("POST", "/chat/completions/input_tokens", count_chat_tokens),
    Route("POST", "/completions", create_completion),
    Route("POST", "/responses", create_response),
    Route("POST", "/responses/input_tokens", count_response_tokens),
    Route("GET", "/responses/{response_id}", get_response),
    Route("DELETE", "/responses/{response_id}", delete_response),
    Route("POST", "/responses/{response_id}/cancel", cancel_response),
    Route("GET", "/responses/{response_id}/input_items", list_input_items),
    Route("POST", "/files", create_file),
    Route("GET", "/files", list_files),
    Route("GET", "/files/{file_id}", get_file),
    Route("DELETE", "/files/{file_id}", delete_file),
    Route("GET", "/files/{file_id}/content", get_file_content),
    Route("POST", "/batches", create_batch),
    Route("GET", "/batches", list_batches),
    Route("GET", "/batches/{batch_id}", get_batch),
    Route("POST", "/batches/{batch_id}/cancel", cancel_batch),
    Route("POST", "/messages", create_message, to_error=anthropic_error),
    Route("POST", "/messages/count_tokens", count_message_tokens, to_error=anthropic_error),
    Route("POST", "/api/chat", ollama_chat, to_error=ollama_error),
    Route("POST", "/api/generate", ollama_generate, to_error=ollama_error),
    Route("POST", "/api/embed", ollama_embed, to_error=ollama_error),
    Route("POST", "/api/embeddings", ollama_embeddings, to_error=ollama_error),
    Route("GET", "/api/tags", list_tags, to_error=ollama_error),
    Route("GET", "/api/ps", list_running, to_error=ollama_error),
    Route("GET", "/api/version", get_version, to_error=ollama_error),
    Route("POST", "/api/show", show_model, to_error=ollama_error),
    Route("POST", "/api/pull", pull_model, to_error=ollama_error),
    Route("POST", "/api/create", refuse_change, to_error=ollama_error),
    Route("POST", "/api/copy", refuse_change, to_error=ollama_error),
    Route("POST", "/api/push", refuse_change, to_error=ollama_error),
    Route("POST", "/api/blobs/{digest}", refuse_change, to_error=ollama_error),
    Route("DELETE", "/api/delete", refuse_change, to_error=ollama_error),
    Route("POST", "/infill", create_infill),
    Route("POST", "/completion", continue_prompt),
    Route("POST", "/embeddings", create_embeddings),
    Route("POST", "/embed", embed),
    Route("POST", "/", embed_or_compare),  # where Hugging Face's client looks for both
    Route("POST", "/similarity", similarity),
    Route("GET", "/info", get_info),
    Route("POST", "/rerank", rerank),
    Route("POST", "/v2/rerank", rerank),  # where Cohere's clients look for it
    Route("POST", "/score", score),
    Route("POST", "/classify", classify),
    Route("POST", "/predict", predict),
    Route("POST", "/tokenize", tokenize),
    Route("POST", "/detokenize", detokenize),
    Route("POST", "/apply-template", apply_template),
)
PREFIXES = ("", "/v1")


def routes_of(settings: Settings) -> tuple[Route, ...]:
    """The table, and a public route for each of the playground's files unless it is switched off."""
    if not (settings.playground and settings.model_name):
        return ROUTES
    files = [(name, file) for name, file in static_files().items() if name != PAGE]
    return ROUTES + tuple(
        Route("GET", f"/playground/{name}", static_endpoint(file), is_public=True) for name, file in files
    )


def install_routes(app: FastAPI, routes: Iterable[Route]) -> None:
    for route in routes:
        for prefix in PREFIXES:
            app.router.routes.append(_Path(prefix + route.path, route.answer, methods=[route.method]))


class _Path(StarletteRoute):
    """A plain route: FastAPI's would study each endpoint for parameters, of which ours have none."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        if match is not Match.NONE:
            found["route"] = self  # for metrics and traces
        return match, found
