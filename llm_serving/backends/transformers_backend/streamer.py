"""Text of a running `generate()`, as it comes, for a reader on another thread."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from queue import Queue
from typing import Any
from uuid import UUID, uuid4

from transformers import TextIteratorStreamer

STOP_SIGNAL = "data: [DONE]\n\n"


class CustomStreamer(TextIteratorStreamer):  # type: ignore[misc, unused-ignore]
    """Give it to `generate(streamer=...)` on one thread and iterate on another: text, or OpenAI's chunks.

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

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        text = self.text_queue.get(timeout=self.timeout)
        # Identity, not equality: a model may say the very words.
        if text is self.stop_signal:
            self._ended = True
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
