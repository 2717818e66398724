"""`CustomStreamer`, as the guide describes it: a reader on one thread, `generate()` on another."""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch; run it with: make parity")

import transformers  # noqa: E402

from llm_serving.backends.transformers_backend import CustomStreamer  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


class Words:
    """The part of a tokenizer that streamers use: token i is the i-th word."""

    words = ("Hel", "lo, ", "wörld", "!", "data: [DONE]\n\n")

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return "".join(self.words[int(i)] for i in ids)


def feed(streamer: CustomStreamer, ids: list[int]) -> None:
    for i in ids:
        streamer.put(torch.tensor([i]))
    streamer.end()


def test_attributes() -> None:
    streamer = CustomStreamer(Words(), timeout=1.5, model_name="m")
    assert isinstance(streamer, transformers.TextIteratorStreamer)
    assert isinstance(streamer.text_queue, queue.Queue)
    assert isinstance(streamer.id, uuid.UUID)
    assert streamer.id != CustomStreamer(Words()).id
    assert (streamer.stop_signal, streamer.timeout, streamer.model_name) == ("data: [DONE]\n\n", 1.5, "m")


def test_iterating_gives_the_text_and_ends() -> None:
    streamer = CustomStreamer(Words(), timeout=1)
    feed(streamer, [0, 1, 2, 3])
    assert "".join(streamer) == "Hello, wörld!"
    assert list(streamer) == [], "over is over"


def test_a_model_may_say_the_stop_signal() -> None:
    streamer = CustomStreamer(Words(), timeout=1)
    feed(streamer, [4, 0, 4, 1])
    assert "".join(streamer) == "data: [DONE]\n\nHeldata: [DONE]\n\nlo, "


def test_waiting_has_a_limit() -> None:
    with pytest.raises(queue.Empty):
        next(CustomStreamer(Words(), timeout=0.01))


def test_chunks_are_openais() -> None:
    streamer = CustomStreamer(Words(), timeout=1, model_name="Qwen/Qwen2.5-3B-Instruct")
    feed(streamer, [0, 1, 2, 3])
    *frames, last = streamer.chunks()
    assert last == "data: [DONE]\n\n"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert all(frame.endswith("\n\n") and frame.count("\n") == 2 for frame in frames)
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{streamer.id.hex}"}
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("chat.completion.chunk", "Qwen/Qwen2.5-3B-Instruct")
    }
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hello, wörld!"
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


def test_generate_streams_through_it(directory_of: Callable[..., Path]) -> None:
    directory = directory_of("qwen2")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer("Hello! Talk about the News.", return_tensors="pt", return_token_type_ids=False)
    how = {**inputs, "max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    out = model.generate(**how)[0, inputs["input_ids"].shape[1] :]
    streamer = CustomStreamer(tokenizer, skip_prompt=True, timeout=30, skip_special_tokens=True)
    thread = threading.Thread(target=model.generate, kwargs={**how, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == tokenizer.decode(out, skip_special_tokens=True)
    thread.join()
