"""`langchain-openai` against a live server, as its documentation uses it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

langchain_openai = pytest.importorskip(
    "langchain_openai", reason="needs langchain-openai; run it with: make parity"
)

from fake_server import FAKE_SETTINGS, fake_app, fake_encoder_loader, running_server  # noqa: E402
from langchain_core.exceptions import ContextOverflowError  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage  # noqa: E402

from llm_serving.backends.fake_encoder import FakeEncoder, FakeEncoderTokenizer  # noqa: E402
from llm_serving.embeddings.encoder import EncoderInput  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

REPLY = "Hello, world! 😀"
TEXTS = ["Hello, world!", "How are you?", "日本語のテキスト 😀"]


@pytest.fixture(autouse=True)
def _stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracing to a service, and no proxy between the client and this machine."""
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    # Its own ones LangChain keeps for good, open connections included.
    with httpx.Client() as opened:
        yield opened


def chat(url: str, http: httpx.Client, **options: Any) -> Any:
    return langchain_openai.ChatOpenAI(model="gpt-4o", http_client=http, **_server(url), **options)


def embeddings(url: str, http: httpx.Client, **options: Any) -> Any:
    # Otherwise it sends ids of an OpenAI tokenizer, whose vocabulary it downloads.
    options = {"check_embedding_ctx_length": False, **options}
    return langchain_openai.OpenAIEmbeddings(
        model="text-embedding-3-small", http_client=http, **_server(url), **options
    )


def _server(url: str) -> dict[str, Any]:
    return {"api_key": "OPENAI_API_KEY", "base_url": f"{url}/v1", "max_retries": 0}


def expected(texts: list[str]) -> np.ndarray:
    ids = FakeEncoderTokenizer().encode_batch(texts)
    return FakeEncoder().encode([EncoderInput(each) for each in ids])


def test_chat_answers(live_url: str, http: httpx.Client) -> None:
    model = chat(live_url, http, temperature=0.1, max_tokens=50, stop=["###"], seed=7)
    answer = model.invoke(
        [SystemMessage("You are brief."), HumanMessage("Hi"), AIMessage("Yes?"), ("user", "x")]
    )
    assert answer.content == REPLY
    assert answer.response_metadata["model_name"] == "fake"
    assert answer.response_metadata["finish_reason"] == "stop"
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > usage["output_tokens"]


def test_chat_streams(live_url: str, http: httpx.Client) -> None:
    chunks = list(chat(live_url, http, stream_usage=True).stream("tell me about Microsoft"))
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    assert "".join(chunk.content for chunk in chunks) == REPLY
    whole = sum(chunks[1:], chunks[0])
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata["output_tokens"] > 0


def test_chat_batches_and_streams_from_asyncio(live_url: str, http: httpx.Client) -> None:
    model = chat(live_url, http)
    assert [answer.content for answer in model.batch(["a", "b", "c"])] == [REPLY] * 3

    async def streamed() -> str:
        async with httpx.AsyncClient() as client:
            model = chat(live_url, http, http_async_client=client)
            return "".join([chunk.content async for chunk in model.astream("Hi")])

    assert asyncio.run(streamed()) == REPLY


def test_a_prompt_over_the_context_is_langchains_own_error(live_url: str, http: httpx.Client) -> None:
    with pytest.raises(ContextOverflowError, match="tokens"):
        chat(live_url, http).invoke("word " * 20_000)


def test_documents_and_queries_are_the_models_vectors(live_url: str, http: httpx.Client) -> None:
    model = embeddings(live_url, http)
    assert np.array(model.embed_documents(TEXTS), np.float32).tobytes() == expected(TEXTS).tobytes()
    assert np.array(model.embed_query(TEXTS[1]), np.float32).tobytes() == expected(TEXTS[1:2]).tobytes()

    async def embedded() -> list[list[float]]:
        async with httpx.AsyncClient() as client:
            return await embeddings(live_url, http, http_async_client=client).aembed_documents(TEXTS)

    assert asyncio.run(embedded()) == model.embed_documents(TEXTS)


def test_embeddings_in_chunks_and_shorter(live_url: str, http: httpx.Client) -> None:
    texts = [f"text {i}" for i in range(50)]
    model = embeddings(live_url, http, chunk_size=16)
    assert np.array(model.embed_documents(texts), np.float32).tobytes() == expected(texts).tobytes()
    short = embeddings(live_url, http, dimensions=8).embed_query("hello")
    assert len(short) == 8
    assert math.isclose(np.linalg.norm(short), 1, rel_tol=1e-6)


def test_sides_of_a_search(http: httpx.Client) -> None:
    """`model_kwargs` carries what OpenAI does not have."""
    load = fake_encoder_loader({"query": "query : ", "document": "passage : "})
    with running_server(fake_app(load_encoder=load, **FAKE_SETTINGS)) as url:
        model = embeddings(url, http, model_kwargs={"extra_body": {"input_type": "query"}})
        row = np.array(model.embed_query("hello"), np.float32)
    assert row.tobytes() == expected(["query : hello"])[0].tobytes()
