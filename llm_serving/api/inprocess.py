"""The server's models as plain functions, for code in the same process. They block.

They work on every thread but the one of the lifespan's event loop, which they would wait for: in an
`async def` use `await asyncio.to_thread(generate_response, …)`. FastAPI runs `def` handlers on threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import uuid
from collections.abc import Coroutine, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar, overload

from fastapi import HTTPException

from llm_serving.api.convert.reading import AnswerReader
from llm_serving.api.convert.tools import NO_TOOLS
from llm_serving.api.errors import error_response, kind_of
from llm_serving.api.running import Running, latest
from llm_serving.errors import InvalidRequest, ModelNotFound, ServingError
from llm_serving.service.chat import ChatRequest
from llm_serving.service.embedding import EmbeddingRequest
from llm_serving.service.generation import GenerationOptions
from llm_serving.service.rendering import Conversation

T = TypeVar("T")

NOT_STARTED = "You need to start the service first."
STOPPED = "The server stopped before the answer was complete."
_TEXTS_A_REQUEST = 1024
_LOOK_S = 1.0  # how often a waiting thread looks whether the event loop still lives


@overload
def generate_response(prompt: str, model_name: str | None = None, stream: Literal[False] = False) -> str: ...
@overload
def generate_response(prompt: str, model_name: str | None = None, *, stream: Literal[True]) -> TextStream: ...
@overload
def generate_response(
    prompt: str, model_name: str | None = None, stream: bool = False
) -> str | TextStream: ...


def generate_response(prompt: str, model_name: str | None = None, stream: bool = False) -> str | TextStream:
    """The chat model's answer to one user message, without its thoughts; with `stream` an iterator of pieces.

    Raises: HTTPException (503: not started, loading, failed, stopping; 429: overloaded; 400: the prompt does
    not fit; 404: names are strict and this one is unknown; 500); RuntimeError on the event loop's own thread.
    """
    running = _running()
    if not isinstance(prompt, str):
        raise _to_http(InvalidRequest("'prompt' must be a string.", "prompt"))
    request = ChatRequest(
        f"python-{uuid.uuid4().hex}",
        Conversation([{"role": "user", "content": prompt}]),
        GenerationOptions(),
        model=model_name,
    )
    pieces = TextStream(running, request)
    return pieces if stream else "".join(pieces)


def embed_texts(texts: list[str]) -> list[list[float]]:
    """One vector a text, of the model's own size. No limit on their number; none may be empty.

    Raises: HTTPException as `generate_response`; 503 also if there is no embedding model.
    """
    running = _running()
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise _to_http(InvalidRequest("'texts' must be a list of strings.", "texts"))
    vectors: list[list[float]] = []
    for start in range(0, len(texts), _TEXTS_A_REQUEST):
        request = EmbeddingRequest(
            texts[start : start + _TEXTS_A_REQUEST], name_of=partial(_name_of_text, start)
        )
        try:
            vectors += _wait(running, running.services.embedding.embed(request)).vectors.tolist()
        except HTTPException as error:
            if isinstance(error.__cause__, ModelNotFound):
                raise HTTPException(503, error.detail) from error.__cause__
            raise
    return vectors


class TextStream(Iterator[str]):
    """Pieces of one answer. `close`, or dropping the last reference, stops the model."""

    def __init__(self, running: Running, request: ChatRequest) -> None:
        """Returns when the request is admitted. Raises: HTTPException."""
        self._running = running
        items: SimpleQueue[str | None] = SimpleQueue()  # "" once admitted, then pieces, None at the end
        self._items = items
        self._future = _submit(running, _generate(running, request, items))
        # Called however the work ends, so nobody waits for ever. Holds no reference to this object.
        self._future.add_done_callback(lambda _: items.put(None))
        self._take()

    def __next__(self) -> str:
        """Raises: HTTPException if generation fails; RuntimeError on the event loop's own thread."""
        _require_other_thread(self._running)
        piece = self._take()
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        if not self._running.loop.is_closed():
            self._future.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_future"):
            self.close()

    def _take(self) -> str | None:
        while True:
            try:
                item = self._items.get(timeout=_LOOK_S)
            except Empty:
                if self._running.loop.is_closed():
                    raise HTTPException(503, NOT_STARTED) from None
                continue
            if item is not None:
                return item
            self._items.put(None)  # whoever asks again hears the same
            if self._future.cancelled():
                raise HTTPException(503, STOPPED)
            error = self._future.exception()
            if error is not None:
                raise _to_http(error) from error
            return None


async def _generate(running: Running, request: ChatRequest, items: SimpleQueue[str | None]) -> None:
    async with await running.services.chat.open(request) as generation:
        items.put("")
        reader = AnswerReader(generation, NO_TOOLS)
        async for batch in generation:
            for _, event in batch:
                if text := reader.feed(event).text:
                    items.put(text)


def _running() -> Running:
    running = latest()
    if running is None:
        raise HTTPException(503, NOT_STARTED)
    _require_other_thread(running)
    return running


def _require_other_thread(running: Running) -> None:
    if threading.get_ident() == running.thread_id:
        raise RuntimeError(
            "This function blocks, and was called on the event loop's own thread: it would wait for itself. "
            "In an async function use: await asyncio.to_thread(generate_response, prompt)"
        )


def _submit(running: Running, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    try:
        return asyncio.run_coroutine_threadsafe(work, running.loop)
    except RuntimeError:  # the loop is closed
        work.close()
        raise HTTPException(503, NOT_STARTED) from None


def _wait(running: Running, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which runs on the loop. Raises: HTTPException."""
    future = _submit(running, work)
    try:
        while not concurrent.futures.wait([future], _LOOK_S).done:
            if running.loop.is_closed():
                raise HTTPException(503, NOT_STARTED)
        if future.cancelled():
            raise HTTPException(503, STOPPED)
        error = future.exception()
        if error is not None:
            raise _to_http(error) from error
        return future.result()
    except BaseException:
        if not running.loop.is_closed():
            future.cancel()
        raise


def _to_http(error: BaseException) -> HTTPException:
    """As the HTTP API answers to it."""
    detail = str(error) if isinstance(error, ServingError) else "Something went wrong inside the server."
    headers = {k: v for k, v in error_response(error).headers.items() if k == "retry-after"}
    return HTTPException(kind_of(error).status, detail, headers or None)


def _name_of_text(start: int, index: int) -> str:
    return f"texts.{start + index}"
