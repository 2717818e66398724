"""Reads the tables of `docs/compatibility.md` and holds the server to every row."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fake_server import Client, open_client

from llm_serving.api.errors import ERRORS, INTERNAL
from llm_serving.api.schemas.chat import ChatCompletionRequest
from llm_serving.api.schemas.classification import ClassifyRequest, PredictRequest
from llm_serving.api.schemas.completion import CompletionRequest
from llm_serving.api.schemas.embedding import EmbedRequest
from llm_serving.api.schemas.inference import EmbedInputs, SimilarityRequest
from llm_serving.api.schemas.infill import InfillRequest
from llm_serving.api.schemas.llama_cpp import LlamaCppCompletionRequest
from llm_serving.api.schemas.messages import MessagesRequest
from llm_serving.api.schemas.neutral import (
    CHAT,
    CLASSIFY,
    COMPLETION,
    EMBED,
    EMBEDDING,
    LLAMA_CPP,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
    OLLAMA_PULL,
    OLLAMA_SHOW,
    PREDICT,
    RERANK,
    RESPONSES,
    SCORE,
    SIMILARITY,
    TOKENS,
)
from llm_serving.api.schemas.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaModelRequest,
    OllamaOptions,
    OllamaPullRequest,
)
from llm_serving.api.schemas.ranking import RerankRequest, ScoreRequest
from llm_serving.api.schemas.responses import ResponseRequest
from llm_serving.api.schemas.tokens import DetokenizeRequest, TemplateRequest, TokenizeRequest
from llm_serving.backends.fake import FIRST_SPECIAL
from llm_serving.checkpoints import FillIn

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text("utf-8")
BASES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
    "/completions": {"prompt": "Hi", "max_tokens": 1},
    "/infill": {"input_prefix": "Hi", "n_predict": 1},
    "/completion": {"prompt": "Hi", "n_predict": 1},
    "/responses": {"input": "Hi", "max_output_tokens": 1},
    "/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
    "/api/chat": {"messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "Hi", "options": {"num_predict": 1}},
    "/api/embed": {"input": "Hi"},
    "/api/embeddings": {"prompt": "Hi"},
    "/api/show": {"model": "fake"},
    "/api/pull": {"model": "fake"},
    "/embeddings": {"input": "Hi"},
    "/embed": {"inputs": "Hi"},
    "/similarity": {"inputs": {"source_sentence": "Hi", "sentences": ["Hello"]}},
    "/rerank": {"query": "Hi", "documents": ["Hello"]},
    "/score": {"text_1": "Hi", "text_2": ["Hello"]},
    "/classify": {"input": "Hi"},
    "/predict": {"inputs": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [65]},
    "/apply-template": {"messages": [{"content": "Hi"}]},
}
PATHS = {
    "chat": ["/chat/completions"],
    "completions": ["/completions"],
    "both": ["/chat/completions", "/completions"],
    "all": ["/chat/completions", "/completions", "/responses"],
    "infill": ["/infill"],
    "completion": ["/completion"],
    "llama.cpp": ["/infill", "/completion"],
    "responses": ["/responses"],
    "anthropic": ["/messages"],
    "ollama": ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"],
    "ollama text": ["/api/chat", "/api/generate"],
    "ollama models": ["/api/show", "/api/pull"],
    **{path[1:]: [path] for path in BASES if path.startswith("/api/")},
    "embeddings": ["/embeddings"],
    "embed": ["/embed"],
    "similarity": ["/similarity"],
    "rerank": ["/rerank"],
    "score": ["/score"],
    "ranking": ["/rerank", "/score"],
    "classify": ["/classify"],
    "predict": ["/predict"],
    "classes": ["/classify", "/predict"],
    "tokenize": ["/tokenize"],
    "detokenize": ["/detokenize"],
    "template": ["/apply-template"],
    "tokens": ["/tokenize", "/detokenize", "/apply-template"],
}
REQUIRED = {"max_tokens", "messages", "prompt", "input", "inputs", "query", "text_1", "text_2", "tokens"}
ALTERNATIVES: dict[tuple[str, str], dict[str, Any]] = {  # said otherwise than in the base body
    ("/rerank", "texts"): {"query": "Hi"},
    ("/score", "queries"): {"documents": ["Hello"]},
    ("/score", "documents"): {"queries": "Hi"},
    ("/score", "items"): {"queries": "Hi"},
    ("/tokenize", "content"): {},
    ("/tokenize", "messages"): {},
    ("/tokenize", "reasoning_effort"): {"messages": [{"content": "Hi"}]},
    ("/tokenize", "chat_template_kwargs"): {"messages": [{"content": "Hi"}]},
    **{(path, name): {} for path in ("/api/show", "/api/pull") for name in ("model", "name")},
}
SCHEMAS: list[tuple[str, Any, dict[str, Any]]] = [
    ("/chat/completions", ChatCompletionRequest, CHAT),
    ("/completions", CompletionRequest, COMPLETION),
    ("/infill", InfillRequest, LLAMA_CPP),
    ("/completion", LlamaCppCompletionRequest, LLAMA_CPP),
    ("/responses", ResponseRequest, RESPONSES),
    ("/messages", MessagesRequest, MESSAGES),
    ("/api/chat", OllamaChatRequest, OLLAMA_CHAT),
    ("/api/generate", OllamaGenerateRequest, OLLAMA_GENERATE),
    ("/api/embed", OllamaEmbedRequest, OLLAMA_EMBED),
    ("/api/embeddings", OllamaEmbeddingsRequest, OLLAMA_EMBED),
    ("/api/show", OllamaModelRequest, OLLAMA_SHOW),
    ("/api/pull", OllamaPullRequest, OLLAMA_PULL),
    ("/embeddings", EmbedRequest, EMBEDDING),
    ("/embed", EmbedInputs, EMBED),
    ("/similarity", SimilarityRequest, SIMILARITY),
    ("/rerank", RerankRequest, RERANK),
    ("/score", ScoreRequest, SCORE),
    ("/classify", ClassifyRequest, CLASSIFY),
    ("/predict", PredictRequest, PREDICT),
    ("/tokenize", TokenizeRequest, TOKENS),
    ("/detokenize", DetokenizeRequest, TOKENS),
    ("/apply-template", TemplateRequest, TOKENS),
]


class Row(NamedTuple):
    parameter: str
    path: str
    status: str
    accepted: list[Any]
    refused: list[Any]


def read_rows() -> list[Row]:
    rows = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) < 5 or cells[2] not in ("implemented", "neutral only", "rejected"):
            continue
        accepted, refused = (
            [json.loads(code) for code in re.findall("`([^`]+)`", cell)] for cell in cells[3:5]
        )
        rows += [Row(cells[0].strip("`"), path, cells[2], accepted, refused) for path in PATHS[cells[1]]]
    return rows


ROWS = read_rows()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Servers(NamedTuple):
    """Of a model that cannot fill in, which is refused where it should, and of one that can."""

    plain: Client
    filling: Client

    async def post(self, path: str, json: Any) -> httpx.Response:
        return await (self.filling if path == "/infill" else self.plain).post(path, json=json)


def fill_in(client: Client) -> None:
    tokens = [FIRST_SPECIAL + i for i in range(3)]
    tokenizer: Any = client.services.registry.first.get().tokenizer
    tokenizer.fill_in = FillIn(*tokens, frozenset(tokens), None)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Servers]:
    async with open_client(classifier_model="fake-classes") as plain, open_client() as filling:
        fill_in(filling)
        yield Servers(plain, filling)


def with_field(base: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """`base` with a field, or with one of its options."""
    if not name.startswith("options."):
        return {**base, name: value}
    return {**base, "options": {**base.get("options", {}), name.removeprefix("options."): value}}


def names_of(schema: Any) -> set[str]:
    """Its fields; options are fields, too."""
    names = set(schema.model_fields)
    if "options" in names:
        names |= {f"options.{name}" for name in OllamaOptions.model_fields}
    return names


def message_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error if isinstance(error, str) else error["message"])  # a text is Ollama's shape


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.parameter}{row.path.replace('/', '-')}")
async def test_server_does_what_the_row_says(server: Servers, row: Row) -> None:
    assert row.accepted
    assert row.refused
    is_other_name = (row.path, row.parameter) in ALTERNATIVES
    base = ALTERNATIVES.get((row.path, row.parameter), BASES[row.path])
    is_required = is_other_name or row.parameter in (REQUIRED & BASES[row.path].keys() | {"documents"})
    for value in [None, *row.accepted]:
        if value is None and is_required:
            continue
        response = await server.post(row.path, json=with_field(base, row.parameter, value))
        assert response.status_code == 200, (value, response.text)
        assert "x-ignored-parameters" not in response.headers
    for value in row.refused:
        response = await server.post(row.path, json=with_field(base, row.parameter, value))
        error = response.json()["error"]
        assert response.status_code == 400, value
        assert row.parameter in message_of(response)
        if row.path.startswith("/api/"):  # Ollama's says nothing but that
            continue
        if row.path == "/messages":  # Anthropic's shape says no more
            assert error["type"] == "invalid_request_error"
            continue
        assert row.parameter in (error["param"], error["param"].split(".")[0])
        expected = "invalid_value" if row.status == "implemented" else "unsupported_parameter"
        assert error["code"] == expected


@pytest.mark.parametrize(("path", "schema", "neutral"), SCHEMAS)
def test_every_field_has_one_row(path: str, schema: Any, neutral: dict[str, Any]) -> None:
    rows = {row.parameter: row.status for row in ROWS if row.path == path}
    assert len(rows) == len([row for row in ROWS if row.path == path])
    assert {name for name, status in rows.items() if status == "implemented"} == names_of(schema)
    assert {name for name, status in rows.items() if status == "neutral only"} == {
        name for name, values in neutral.items() if values
    }
    assert {name for name, status in rows.items() if status == "rejected"} == {
        name for name, values in neutral.items() if not values
    }


def test_every_error_has_a_row() -> None:
    for kind in {*ERRORS.values(), INTERNAL}:
        if kind.code == "serving_error":  # the base class; everything raised is more than that
            continue
        assert re.search(rf"\| {kind.status} \| `{kind.type}` \|.*`{kind.code}`", PAGE), kind


@pytest.mark.parametrize("path", list(BASES))
async def test_unknown_fields_are_listed(server: Servers, path: str) -> None:
    extra: dict[str, Any] = {"odd": {}, "naïve\r\nx-evil: 1": 1}
    names = ["odd", "na%C3%AFve%0D%0Ax-evil%3A%201"]
    if path in PATHS["both"]:
        extra |= {"stream_options": {"odd": 1}, "stream": True}
        names.append("stream_options.odd")
    response = await server.post(path, json={**BASES[path], **extra})
    assert response.status_code == 200
    listed = response.headers["x-ignored-parameters"].split(", ")
    assert listed == names
    assert "x-evil" not in response.headers
    many = {f"field_{i}" * 20: i for i in range(1000)}
    response = await server.post(path, json={**BASES[path], **many})
    assert response.headers["x-ignored-parameters"].endswith(", and-984-more")
    assert len(response.headers["x-ignored-parameters"]) < 2000


@pytest.mark.parametrize("path", list(BASES))
async def test_unknown_fields_are_refused_when_parameters_are_strict(path: str) -> None:
    async with open_client(strict_parameters=True, classifier_model="fake-classes") as client:
        if path == "/infill":
            fill_in(client)
        response = await client.post(path, json={**BASES[path], "temprature": 1})
        assert response.status_code == 400
        assert "'temprature'" in message_of(response)
        assert (await client.post(path, json={**BASES[path], "priority": 0})).status_code == 200
