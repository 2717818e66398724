"""`/infill` as llama.vim and llama.vscode ask, in process: what a model is shown, and when it is enough."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from fake_server import Client, open_client
from patience import PATIENCE_S

from llm_serving.api.convert import llama_cpp
from llm_serving.api.convert.llama_cpp import _Lines
from llm_serving.backends.fake import FIRST_SPECIAL, NUM_BYTES, FakeTokenizer, load_fake_engine
from llm_serving.checkpoints import FillIn
from llm_serving.config import Settings
from llm_serving.service.infill import Infill, infill_ids
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio
BOS, BEFORE, BEHIND, BETWEEN, REPOSITORY, FILE = (FIRST_SPECIAL + i for i in range(6))
CODE = "a = 1\n    b = 2\n\n    c = 3\nd = 4\n"
# As llama.vim sends it.
ASKED: dict[str, Any] = {
    "input_prefix": "def f():\n",
    "input_suffix": "\nf()\n",
    "input_extra": [{"text": "x = 1\n", "time": [1, 2], "filename": "x.py"}],
    "prompt": "    ",
    "n_predict": 64,
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 60_000,
}


PIECES = {"stream": True, "n_indent": 0, "t_max_predict_ms": -1}


def loader(reply: str = CODE, files: tuple[int, int] | None = (REPOSITORY, FILE)) -> Any:
    def load(settings: Settings) -> ChatModel:
        tokenizer = FakeTokenizer()
        tokenizer.fill_in = FillIn(BEFORE, BEHIND, BETWEEN, frozenset({NUM_BYTES + ord("~")}), BOS, files)
        return ChatModel("filler", load_fake_engine(engine_options(settings), reply=reply), tokenizer)

    return load


async def answer(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/infill", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    assert "x-ignored-parameters" not in response.headers
    found: dict[str, Any] = response.json()
    return found


async def test_a_line_that_is_indented_by_less_ends_it() -> None:
    async with open_client(load=loader()) as client:
        told = await answer(client)
        assert told["content"] == "a = 1\n    b = 2\n\n    c = 3\n"
        assert (told["stop"], told["stop_type"], told["truncated"]) == (True, "limit", False)
        assert (await answer(client, n_indent=0))["content"] == CODE
        assert (await answer(client, n_indent=5))["content"] == "a = 1\n"


async def test_what_was_done_and_how_fast() -> None:
    async with open_client(load=loader()) as client:
        told = await answer(client, n_indent=None)
        assert told["stop_type"] == "eos"
        times = told["timings"]
        assert times["prompt_n"] + told["tokens_cached"] == told["tokens_evaluated"] > 20
        assert times["predicted_n"] == told["tokens_predicted"] == len(CODE) + 1
        assert times["prompt_ms"] > 0 < times["predicted_ms"]
        assert times["predicted_per_second"] == pytest.approx(
            times["predicted_n"] / times["predicted_ms"] * 1000
        )
        again = await answer(client, response_fields=["content", "timings/prompt_n", "tokens_cached", "none"])
        assert set(again) == {"content", "timings/prompt_n", "tokens_cached"}
        assert again["tokens_cached"] > 0
        assert await answer(client, response_fields=[""]) == {}


async def test_a_number_of_tokens_and_none_to_have_the_prompt_read() -> None:
    async with open_client(load=loader()) as client:
        told = await answer(client, n_predict=3)
        assert (told["content"], told["stop_type"]) == ("a =", "limit")
        told = await answer(client, n_predict=0, input_prefix="", input_suffix="", prompt="")
        assert (told["content"], told["tokens_predicted"]) == ("", 0)
        assert (await answer(client, n_predict=-1, n_indent=0))["content"] == CODE


async def test_when_time_is_over_whole_lines_are_enough() -> None:
    async with open_client(load=loader("x\n" * 500)) as client:
        told = await answer(client, n_indent=0, n_predict=1000, t_max_predict_ms=1)
        assert 0 < told["content"].count("\n") < 500
        assert told["stop_type"] == "limit"
        engine = client.services.registry.first.get().engine
        deadline = time.monotonic() + PATIENCE_S
        while engine.stats().num_running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert engine.stats().num_running == 0  # it does not go on for nobody


async def test_what_the_model_is_shown() -> None:
    async with open_client(load=loader(), context_length=128) as client:
        model = client.services.registry.default.get()
        own = [BEFORE, *b"abif", BEHIND, *b"<|eos|>", BETWEEN]
        infill = Infill("ab", "<|eos|>", "if", [("x.py", "x"), ("y.py", "y")])
        beside = [REPOSITORY, *b"project\n", FILE, *b"x.py\nx", FILE, *b"y.py\ny", FILE, *b"file\n"]
        assert infill_ids(model, infill, 10) == [BOS, *beside, *own]
        assert infill_ids(model, Infill("ab", "<|eos|>", "if"), 10) == [BOS, *own]
        room = 128 - len(own) - 1 - 90
        assert infill_ids(model, infill, 90) == [BOS, *beside[-room:], *own]
        assert infill_ids(model, infill, 1000) == [BOS, *own]
    async with open_client(load=loader(files=None)) as client:
        model = client.services.registry.default.get()
        assert infill_ids(model, infill, 10) == [BOS, *b"x\ny", *own]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "n_indent"),
        ({"stream": True, "n_indent": 0}, "t_max_predict_ms"),
        (
            {"stream": True, "n_indent": 0, "t_max_predict_ms": -1, "response_fields": ["content"]},
            "response_fields",
        ),
        ({"input_extra": [{"filename": "x"}]}, "input_extra.0.text"),
        ({"input_extra": "x"}, "input_extra"),
        ({"input_prefix": 5}, "input_prefix"),
        ({"n_predict": -2}, "n_predict"),
        ({"n_indent": -1}, "n_indent"),
        ({"response_fields": "content"}, "response_fields"),
        ({"temperature": 9}, "temperature"),
        ({"repeat_penalty": 1.5}, "repeat_penalty"),
        ({"input_prefix": "x" * 9000}, "input_prefix"),
    ],
)
async def test_bad_requests_name_the_field(fields: dict[str, Any], param: str) -> None:
    async with open_client(load=loader()) as client:
        response = await client.post("/infill", json={**ASKED, **fields})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "asked"), [("/completion", {"prompt": "def"}), ("/infill", {"input_prefix": "def"})]
)
async def test_a_stream_tells_the_same_in_pieces(path: str, asked: dict[str, Any]) -> None:
    async with open_client(load=loader()) as client:
        whole = (await client.post(path, json={**asked, "stop": ["d ="]})).json()
        assert (whole["content"], whole["stop_type"], whole["stopping_word"]) == (
            CODE[: CODE.index("d =")],
            "word",
            "d =",
        )
        response = await client.post(path, json={**asked, "stop": ["d ="], "stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "[DONE]" not in response.text
        pieces = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: ")]
        assert "".join(piece["content"] for piece in pieces) == whole["content"]
        assert [piece["stop"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1]["content"] == ""
        same = ("stop_type", "stopping_word", "tokens_predicted", "tokens_evaluated", "model")
        assert {name: pieces[-1][name] for name in same} == {name: whole[name] for name in same}
        assert pieces[0]["tokens_evaluated"] == whole["tokens_evaluated"]


async def test_a_prompt_is_continued_in_llama_cpps_words() -> None:
    async with open_client(load=loader()) as client:
        told = (await client.post("/v1/completion", json={"prompt": "<|im_start|>ab", "n_predict": 3})).json()
        assert (told["content"], told["stop_type"], told["tokens_evaluated"]) == ("a =", "limit", 4)
        ids = (await client.post("/completion", json={"prompt": [65, 66], "n_predict": 0})).json()
        assert (ids["content"], ids["tokens_evaluated"], ids["tokens_predicted"]) == ("", 2, 0)
        form = {"prompt": "a", "json_schema": {"enum": ["x", "y"]}}
        assert (await client.post("/completion", json=form)).json()["content"] in ('"x"', '"y"')
        for prompt in ([], ["a", 65], [10**9], None):
            error = (await client.post("/completion", json={"prompt": prompt})).json()["error"]
            assert error["param"] == "prompt"


async def test_a_model_that_cannot_fill_in_says_so() -> None:
    async with open_client() as client:
        error = (await client.post("/infill", json=ASKED)).json()["error"]
        assert "no tokens for filling in" in error["message"]


LINES = {
    "a\n    b": -1,
    "a\n  ": -1,
    "a\n\n \n    b\n": -1,
    "a\n  b": 2,
    "a\n    b\n\n  \n\n c\n    d": 13,
    "\nb": 1,
    "a": -1,
    "": -1,
    "a\n\t\t\t\tb\nc": 8,
}


@pytest.mark.parametrize("text", LINES)
def test_the_line_that_ends_it_is_found_however_the_text_grows(text: str) -> None:
    lines = _Lines(4)
    told = [lines.end(text[:size]) for size in range(len(text) + 1)]
    assert [end for end in told if end >= 0][:1] == [LINES[text]] * (LINES[text] >= 0)
    assert _Lines(4).end(text) == LINES[text]
    assert _Lines(0).end(text) == -1


def test_it_is_looked_for_in_steps_linear_in_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each piece and each line, not for each line of each piece."""
    num_lines, num_looks = 2000, 0

    class Counting:
        def match(self, text: str, at: int) -> Any:
            nonlocal num_looks
            num_looks += 1
            return re.compile(r"[ \t]*").match(text, at)

    monkeypatch.setattr(llama_cpp, "_BLANKS", Counting())
    lines, text = _Lines(1), ""
    for _ in range(num_lines):
        for piece in ("\n", " ", "x"):
            text += piece
            assert lines.end(text) == -1
    assert num_looks <= 3 * num_lines
