"""Text of a running `generate()`, as it comes, for a reader on another thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from queue import Queue
from typing import Any
from uuid import UUID, uuid4

from transformers import TextIteratorStreamer

STOP_SIGNAL = "data: [DONE]\n\n"


class _Closed(Exception):
    """Nobody reads the rest."""


class CustomStreamer(TextIteratorStreamer):  # type: ignore[misc, unused-ignore]
    """Give it to `generate(streamer=...)` on one thread and iterate on another: text, or OpenAI's chunks.
    `start` does the first half.

    Attributes
        text_queue: thread-safe; holds text, and `stop_signal` after the last
        stop_signal: the end of an OpenAI stream, `data: [DONE]\\n\\n`
        timeout: seconds to wait for the next text before `queue.Empty` is raised; None = for ever
        id: identifies this answer
        model_name: the `model` of its chunks
    """

    text_queue: Queue[str]
    stop_signal: str
    timeout: float | None

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        model_name: str = "",
        **decode_kwargs: Any,
    ) -> None:
        """`decode_kwargs` go to `tokenizer.decode`, such as `skip_special_tokens=True`."""
        super().__init__(tokenizer, skip_prompt=skip_prompt, timeout=timeout, **decode_kwargs)
        self.stop_signal = STOP_SIGNAL
        self.id: UUID = uuid4()
        self.model_name = model_name
        self.created = int(time.time())
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, model: Any, **arguments: Any) -> CustomStreamer:
        """Call `model.generate(**arguments, streamer=self)` on a thread of its own; returns this streamer.

        What `generate()` raises is raised to the reader, after the text so far.
        """
        arguments["streamer"] = self
        self._thread = threading.Thread(
            target=self._generate, args=(model, arguments), name=f"generate-{self.id}", daemon=True
        )
        self._thread.start()
        return self

    def close(self) -> None:
        """End a `generate()` that nobody reads any more, within a token. Safe to call at any time."""
        self._closed = True
        if self._thread is not None:
            self._thread.join()

    def put(self, value: Any) -> None:
        """Called by `generate()` for each token."""
        if self._closed:
            raise _Closed
        super().put(value)

    def _generate(self, model: Any, arguments: dict[str, Any]) -> None:
        try:
            model.generate(**arguments)
        except BaseException as error:
            self._error = None if isinstance(error, _Closed) else error
            self.text_queue.put(self.stop_signal)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        text = self.text_queue.get(timeout=self.timeout)
        # Identity, not equality: a model may say the very words.
        if text is self.stop_signal:
            self._ended = True
            if self._error is not None:
                raise self._error
            raise StopIteration
        return text

    def chunks(self, finish_reason: str = "stop") -> Iterator[str]:
        """The rest of the answer as server-sent events: the role, each text, the end, the stop signal."""
        yield self.format_chunk(role="assistant", content="")
        for text in self:
            if text:
                yield self.format_chunk(content=text)
        yield self.format_chunk(finish_reason=finish_reason)
        yield self.stop_signal

    def format_chunk(self, *, finish_reason: str | None = None, **delta: str) -> str:
        """One `chat.completion.chunk` as `data: {...}\\n\\n`; keywords are the delta's fields."""
        chunk = {
            "id": f"chatcmpl-{self.id.hex}",
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model_name,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        }
        return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
