"""`CustomStreamer`, as the guide describes it: a reader on one thread, `generate()` on another."""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="needs torch; run it with: make parity")

import transformers  # noqa: E402
from tiny_directories import CHATML  # noqa: E402

from llm_serving.backends.transformers_backend import CustomStreamer  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


class Words:
    """The part of a tokenizer that streamers use: token i is the i-th word."""

    words = ("Hel", "lo, ", "wörld", "!", "data: [DONE]\n\n")

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return "".join(self.words[i] for i in ([ids] if isinstance(ids, int) else ids))


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


# Tiny models of the guide's own two: what they are asked, with and without roles.
GUIDE = {
    "bigscience/bloomz-1b1": ("bloom", [{"content": "Translate to English: Je t’aime."}]),
    "Qwen/Qwen2.5-3B-Instruct": (
        "qwen2",
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello! Talk about the News."},
        ],
    ),
}


class Asked(NamedTuple):
    """A model, and the arguments of `generate()` for what it is asked; `text` is its whole answer."""

    name: str
    model: Any
    tokenizer: Any
    arguments: dict[str, Any]
    text: str

    def streamer(self, **options: Any) -> CustomStreamer:
        return CustomStreamer(
            self.tokenizer,
            skip_prompt=True,
            timeout=30,
            model_name=self.name,
            skip_special_tokens=True,
            **options,
        )


@pytest.fixture(params=GUIDE)
def asked(request: pytest.FixtureRequest, directory_of: Callable[..., Path]) -> Asked:
    family, messages = GUIDE[request.param]
    directory = directory_of(family, **({"chat_template": CHATML} if family == "qwen2" else {}))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    prompt = messages[0]["content"]
    if family == "qwen2":
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    arguments = {**inputs, "max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    out = model.generate(**arguments)[0, inputs["input_ids"].shape[1] :]
    text = tokenizer.decode(out, skip_special_tokens=True)
    return Asked(request.param, model, tokenizer, arguments, text)


def test_generate_streams_through_it(asked: Asked) -> None:
    """As the guide has it: `generate()` fills the queue on a thread, text ends with the stop signal."""
    streamer = asked.streamer()
    thread = threading.Thread(target=asked.model.generate, kwargs={**asked.arguments, "streamer": streamer})
    thread.start()
    texts = []
    while (text := streamer.text_queue.get(timeout=streamer.timeout)) is not streamer.stop_signal:
        texts.append(text)
    thread.join()
    assert "".join(texts) == asked.text
    assert len(texts) > 1, "token by token, though whole words only are text"
    assert streamer.text_queue.empty()


def test_start_runs_generate_and_iterating_gives_its_text(asked: Asked) -> None:
    assert "".join(asked.streamer().start(asked.model, **asked.arguments)) == asked.text


def test_generate_becomes_openai_chunks(asked: Asked) -> None:
    streamer = asked.streamer().start(asked.model, **asked.arguments)
    *frames, last = streamer.chunks("length")
    assert last == streamer.stop_signal
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {
        (f"chatcmpl-{streamer.id.hex}", asked.name)
    }
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == asked.text
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_two_answers_at_once_keep_apart(asked: Asked) -> None:
    streamers = [asked.streamer().start(asked.model, **asked.arguments) for _ in range(2)]
    assert ["".join(streamer) for streamer in streamers] == [asked.text] * 2


def test_closing_ends_generate_within_a_token(asked: Asked) -> None:
    endless = {**asked.arguments, "max_new_tokens": 10**6, "min_new_tokens": 10**6}
    streamer = asked.streamer().start(asked.model, **endless)
    next(streamer)
    streamer.close()
    assert f"generate-{streamer.id}" not in {thread.name for thread in threading.enumerate()}
    list(streamer)  # what was there already, then the end
    streamer.close()


def test_what_generate_raises_reaches_the_reader(asked: Asked) -> None:
    streamer = asked.streamer().start(asked.model, **{**asked.arguments, "max_new_tokens": -1})
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(streamer)
    assert list(streamer) == []
