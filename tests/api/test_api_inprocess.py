"""`lifespan` in somebody else's app, `generate_response` and `embed_texts` beside it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fake_server import Client, fake_app, fake_encoder_loader, open_client, running_server
from fastapi import FastAPI, HTTPException
from patience import PATIENCE_S, wait_until
from thinker import thinker

from llm_serving import embed_texts, generate_response, lifespan
from llm_serving.api.inprocess import NOT_STARTED
from llm_serving.backends.fake_encoder import word_id
from llm_serving.config import SettingsError

pytestmark = pytest.mark.usefixtures("nothing_runs")

REPLY = "Hello, world! 😀"
ENDLESS: dict[str, Any] = {"random": True, "step_seconds": 0.01}


@pytest.fixture
def live() -> Iterator[FastAPI]:
    app = fake_app(behaviour={"reply": REPLY}, load_encoder=fake_encoder_loader(fails_on=word_id("bomb")))
    with running_server(app):
        yield app


def status_of(call: Any, *arguments: Any, **keywords: Any) -> int:
    with pytest.raises(HTTPException) as caught:
        call(*arguments, **keywords)
    assert caught.value.detail
    return caught.value.status_code


def test_not_started() -> None:
    for call in (
        generate_response,
        lambda text: generate_response(text, stream=True),
        lambda text: embed_texts([text]),
    ):
        with pytest.raises(HTTPException) as caught:
            call("x")
        assert (caught.value.status_code, caught.value.detail) == (503, NOT_STARTED)


def test_thoughts_are_no_part_of_the_answer() -> None:
    with running_server(fake_app(thinker())):
        assert generate_response("Hi") == "Hello <think>."
        assert "".join(generate_response("Hi", stream=True)) == "Hello <think>."


def test_text_and_vectors(live: FastAPI) -> None:
    assert generate_response("Hi") == REPLY
    assert generate_response("Hi", model_name="gpt-4o", stream=False) == REPLY
    vectors = embed_texts(["one text", "another"])
    assert all(type(number) is float for vector in vectors for number in vector)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert embed_texts([]) == []
    assert embed_texts([f"text {i}" for i in range(2100)])[2099] == embed_texts(["text 2099"])[0]


def test_stream(live: FastAPI) -> None:
    stream = generate_response("Hi", stream=True)
    assert iter(stream) is stream
    pieces = list(stream)
    assert "".join(pieces) == REPLY
    assert len(pieces) > 3
    assert list(stream) == []


def test_many_threads_at_once(live: FastAPI) -> None:
    answers: list[Any] = []

    def work(i: int) -> None:
        answers.append("".join(generate_response(f"Hi {i}", stream=i % 2 == 0)))
        answers.append(embed_texts([f"text {i}"])[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert answers.count(REPLY) == 16
    assert len(answers) == 32


def test_failures_are_http_exceptions(live: FastAPI) -> None:
    assert status_of(generate_response, "x" * 10_000) == 400
    assert status_of(generate_response, 5) == 400
    assert status_of(generate_response, "x", model_name="fake-embed") == 400
    assert status_of(embed_texts, "a lone string") == 400
    assert status_of(embed_texts, ["a", 5]) == 400
    assert status_of(embed_texts, ["a", ""]) == 400
    assert status_of(embed_texts, ["word " * 999]) == 400
    assert status_of(embed_texts, ["bomb"]) == 500
    with pytest.raises(HTTPException, match=r"texts\.1500"):
        embed_texts([*["a"] * 1500, ""])
    assert generate_response("Hi") == REPLY


def test_strict_names_and_no_embedding_model() -> None:
    with running_server(fake_app(strict_model_names=True, embedding_model="")):
        assert status_of(generate_response, "x", model_name="gpt-4o") == 404
        assert status_of(embed_texts, ["x"]) == 503
        assert generate_response("x", "fake")


def wait_until_idle(app: FastAPI) -> None:
    engine = app.state.services.registry.default.get().engine
    wait_until(lambda: not (engine.stats().num_running or engine.stats().num_waiting))
    assert engine.stats().num_generated_tokens < 500


@pytest.mark.parametrize("how", ["close", "drop", "never read"])
def test_a_stream_that_is_left_stops_the_model(how: str) -> None:
    app = fake_app(behaviour=ENDLESS)
    with running_server(app):
        stream: Any = generate_response("x", stream=True)
        if how != "never read":
            assert next(stream)
        if how == "close":
            stream.close()
            stream.close()
        else:
            del stream
            gc.collect()
        wait_until_idle(app)


def test_death_of_the_engine_ends_a_stream_with_an_error() -> None:
    with running_server(fake_app(behaviour={"reply": REPLY, "fail_at_step": 4})):
        stream: Any = generate_response("x", stream=True)
        assert status_of(list, stream) == 503
        assert status_of(next, stream) == 503
        assert status_of(generate_response, "x") == 503


def test_the_end_of_the_server_ends_what_waits() -> None:
    outcomes: list[int] = []

    def answer() -> None:
        outcomes.append(status_of(generate_response, "x"))

    app = fake_app(behaviour=ENDLESS)
    with running_server(app):
        stream: Any = generate_response("x", stream=True)
        thread = threading.Thread(target=answer)
        thread.start()
        engine = app.state.services.registry.default.get().engine
        wait_until(lambda: engine.stats().num_running == 2)
    assert status_of(list, stream) == 503
    thread.join(PATIENCE_S)
    assert outcomes == [503]
    assert status_of(generate_response, "x") == 503


@pytest.mark.anyio
async def test_on_the_event_loops_own_thread_it_is_an_error_and_no_deadlock(client: Client) -> None:
    for call in (lambda: generate_response("x"), lambda: embed_texts(["x"])):
        with pytest.raises(RuntimeError, match="asyncio.to_thread"):
            call()
    assert await asyncio.to_thread(generate_response, "x") == REPLY
    assert len(await asyncio.to_thread(embed_texts, ["x"])) == 1
    stream: Any = await asyncio.to_thread(generate_response, "x", None, True)
    with pytest.raises(RuntimeError, match="asyncio.to_thread"):
        next(stream)
    assert "".join(await asyncio.to_thread(list, stream)) == REPLY


@pytest.mark.anyio
async def test_while_loading() -> None:
    may_load = threading.Event()

    def load(*args: Any) -> Any:
        assert may_load.wait(PATIENCE_S)
        raise MemoryError

    async with open_client(load, wait=False):
        try:
            assert await asyncio.to_thread(status_of, generate_response, "x") == 503
        finally:
            may_load.set()


def foreign_app() -> FastAPI:
    app = FastAPI(title="Model Serving API", lifespan=lifespan)

    @app.get("/sync")
    def sync(prompt: str) -> dict[str, str]:
        return {"text": str(generate_response(prompt))}

    @app.get("/vector")
    def vector(text: str) -> list[list[float]]:
        return embed_texts([text])

    @app.get("/async")
    async def direct(prompt: str) -> dict[str, str]:
        return {"text": str(generate_response(prompt))}

    return app


def test_lifespan_of_a_foreign_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVING_ENGINE", "fake")
    monkeypatch.setenv("LLM_SERVING_DRAIN_S", "0")
    app = foreign_app()
    for _ in range(2):  # it can be started again
        with running_server(app) as url:
            assert httpx.get(f"{url}/sync", params={"prompt": "Hi"}).json()["text"]
            assert len(httpx.get(f"{url}/vector", params={"text": "Hi"}).json()[0]) == 32
            assert httpx.get(f"{url}/vector", params={"text": ""}).status_code == 400
            assert httpx.get(f"{url}/sync").status_code == 422
            assert httpx.get(f"{url}/async", params={"prompt": "Hi"}).status_code == 500
        assert not hasattr(app.state, "services")
        assert status_of(generate_response, "x") == 503


def test_wrong_settings_of_a_foreign_app_end_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVING_PORT", "http")

    async def start() -> None:
        async with lifespan(FastAPI()):
            pass

    with pytest.raises(SettingsError, match="LLM_SERVING_PORT"):
        asyncio.run(start())


def test_two_apps_and_the_one_started_last_answers() -> None:
    with running_server(fake_app(behaviour={"reply": "first"})):
        with running_server(fake_app(behaviour={"reply": "second"})):
            assert generate_response("x") == "second"
        assert generate_response("x") == "first"
