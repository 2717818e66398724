"""`echo` with `logprobs` on `/completions`: what evaluation harnesses ask for, in process."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from fake_server import Client, data_of, open_client

from llm_serving.backends.fake import (
    EOS_ID,
    FIRST_SPECIAL,
    NUM_BYTES,
    SPECIAL_TOKENS,
    FakeTokenizer,
    load_fake_engine,
)
from llm_serving.config import Settings
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio

COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
SCORED = {"echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0}


async def choices_of(client: Client, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post("/completions", json={**SCORED, **fields})
    assert response.status_code == 200, response.text
    choices: list[dict[str, Any]] = response.json()["choices"]
    for choice in choices:
        logprobs = choice["logprobs"]
        assert tuple(logprobs) == COLUMNS
        assert len({len(column) for column in logprobs.values()}) == 1
        assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
        assert all(-9999 <= each <= 0 for each in logprobs["token_logprobs"][1:])
    return choices


async def streamed_choices(client: Client, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of each choice put together."""
    response = await client.post("/completions", json={**SCORED, **fields, "stream": True})
    assert response.status_code == 200, response.text
    found: dict[int, dict[str, Any]] = {}
    for chunk in data_of(response.text)[:-1]:
        (piece,) = chunk["choices"]
        start = {"text": "", "logprobs": {name: [] for name in COLUMNS}, "finish_reason": None}
        choice = found.setdefault(piece["index"], {"index": piece["index"], **start})
        choice["text"] += piece["text"]
        for name, column in (piece["logprobs"] or {}).items():
            choice["logprobs"][name] += column
        choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]
    return [found[index] for index in sorted(found)]


async def test_the_prompt_then_the_answer(client: Client) -> None:
    (choice,) = await choices_of(client, prompt="Once é", max_tokens=3)
    assert choice["text"] == "Once éHel"
    assert choice["finish_reason"] == "length"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == [SPECIAL_TOKENS[0], *"Once ", "\ufffd", "\ufffd", *"Hel"]
    assert logprobs["text_offset"] == [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert [list(top) for top in logprobs["top_logprobs"][-3:]] == [["H"], ["e"], ["l"]]
    for logprob, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert len(top) == 1
        assert max(top.values()) >= logprob


async def test_the_answers_part_is_what_it_is_without_an_echo(client: Client) -> None:
    asked = {"prompt": "Once", "max_tokens": 5, "logprobs": 2}
    (both,) = await choices_of(client, **asked)
    plain = (await client.post("/completions", json={**SCORED, **asked, "echo": False})).json()["choices"][0]
    assert both["text"] == "Once" + plain["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert both["logprobs"][name][5:] == plain["logprobs"][name]
    assert both["logprobs"]["text_offset"][5:] == [4 + n for n in plain["logprobs"]["text_offset"]]


async def test_nothing_is_generated(client: Client) -> None:
    body = (await client.post("/completions", json={**SCORED, "prompt": "Once"})).json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Once", "length")
    assert len(choice["logprobs"]["tokens"]) == 5
    assert body["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 0,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    before = client.stats.num_generated_tokens
    for stream in (False, True):
        plain = {"prompt": "Once", "echo": True, "max_tokens": 0, "stream": stream}
        response = await client.post("/completions", json=plain)
        answers = data_of(response.text)[:-1] if stream else [response.json()]
        pieces = [answer["choices"][0] for answer in answers]
        assert "".join(piece["text"] for piece in pieces) == "Once"
        assert pieces[-1]["finish_reason"] == "length"
        assert {piece["logprobs"] for piece in pieces} == {None}
    assert client.stats.num_generated_tokens == before


@pytest.mark.parametrize("max_tokens", [0, 1, 6])
async def test_a_stream_tells_the_same(max_tokens: int) -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {
            "prompt": [[*"Zoë".encode()], [65, FIRST_SPECIAL]],
            "n": 2,
            "logprobs": 3,
            "max_tokens": max_tokens,
        }
        asked |= {"temperature": 1.0, "seed": 5, "ignore_eos": True}
        whole = await choices_of(client, **asked)
        assert await streamed_choices(client, **asked) == whole
        assert [choice["index"] for choice in whole] == [0, 1, 2, 3]


async def test_a_stream_has_the_prompt_first(client: Client) -> None:
    asked = {**SCORED, "prompt": "ab", "n": 2, "max_tokens": 3, "stream": True}
    chunks = data_of((await client.post("/completions", json=asked)).text)[:-1]
    for index in (0, 1):
        first = next(chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index)
        assert first["text"] == "ab"
        assert first["logprobs"]["tokens"] == [SPECIAL_TOKENS[0], "a", "b"]
        assert first["finish_reason"] is None


async def test_special_tokens_in_a_text_have_their_place(client: Client) -> None:
    begin, end = SPECIAL_TOKENS[:2]
    (choice,) = await choices_of(client, prompt=f"a{end}b")
    assert choice["logprobs"]["tokens"] == [begin, "a", end, "b"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 1 + len(end)]
    (own,) = await choices_of(client, prompt=f"{begin}a")
    assert own["logprobs"]["tokens"] == [begin, "a"]
    assert own["logprobs"]["text_offset"] == [0, len(begin)]
    (plain,) = await choices_of(client, prompt=f"{begin}a", parse_special=False)
    assert plain["logprobs"]["tokens"] == [begin, *begin, "a"]
    assert plain["logprobs"]["text_offset"] == [0, *range(len(begin) + 1)]


async def test_token_arrays_name_special_tokens(client: Client) -> None:
    (choice,) = await choices_of(client, prompt=[FIRST_SPECIAL, 65, NUM_BYTES + 66, EOS_ID, 0xC3, 0xA9, 67])
    names = SPECIAL_TOKENS
    assert choice["text"] == names[0] + "AB" + names[1] + "éC"
    assert choice["logprobs"]["tokens"] == [names[0], "A", "B", names[1], "\ufffd", "\ufffd", "C"]
    assert choice["logprobs"]["text_offset"] == [0, 7, 8, 9, 16, 16, 17]
    (alone,) = await choices_of(client, prompt=[65])
    assert alone["logprobs"] == dict(zip(COLUMNS, (["A"], [None], [None], [0]), strict=True))


def harness_reads(choice: dict[str, Any], num_context: int) -> tuple[float, bool]:
    """As lm-evaluation-harness does with `max_tokens: 1`: the continuation without the generated token."""
    logprobs = choice["logprobs"]
    values, tops = (logprobs[name][num_context:-1] for name in ("token_logprobs", "top_logprobs"))
    return sum(values), all(value == max(top.values()) for value, top in zip(values, tops, strict=True))


@pytest.mark.parametrize("always_eos", [False, True])
async def test_a_harness_finds_the_continuation(always_eos: bool) -> None:
    """Also where the one token that it asks for ends the answer."""
    async with open_client(behaviour={"always_eos": always_eos, "reply": "yes"}) as client:
        likely = [NUM_BYTES + byte for byte in b"yes"]
        prompts = [[*b"Is it?", *end] for end in (likely, likely[:2] + [NUM_BYTES + 65], list(b"zzz"))]
        asked = {"prompt": prompts, "max_tokens": 1, "seed": 1234}
        results = [harness_reads(choice, 6) for choice in await choices_of(client, **asked)]
        counted = [choice["logprobs"]["tokens"] for choice in await choices_of(client, **asked)]
        assert [len(tokens) for tokens in counted] == [10, 10, 10]
        assert results[0][0] > results[1][0] > results[2][0] or always_eos
        assert [is_greedy for _, is_greedy in results] == [not always_eos, False, False]
        for prompt, (value, _) in zip(prompts, results, strict=True):
            (choice,) = await choices_of(client, prompt=prompt)
            assert sum(choice["logprobs"]["token_logprobs"][6:]) == value


async def test_the_end_is_told_by_name(client: Client) -> None:
    (choice,) = await choices_of(client, prompt="a", max_tokens=50)
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"][-1] == SPECIAL_TOKENS[1]
    assert choice["logprobs"]["text_offset"][-1] == len(choice["text"])
    (cut,) = await choices_of(client, prompt="a", max_tokens=50, stop="world")
    assert cut["text"] == "aHello, "
    assert cut["logprobs"]["tokens"] == [SPECIAL_TOKENS[0], "a", *"Hello, "]


async def test_best_of_keeps_prompts_and_answers_together() -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {"prompt": ["ab", "cde"], "max_tokens": 6, "temperature": 1.0, "seed": 3, "logprobs": 2}
        made = await choices_of(client, **asked, n=4)
        best = await choices_of(client, **asked, n=2, best_of=4)
    rank = {}
    for choice in made:
        values = choice["logprobs"]["token_logprobs"][3 if choice["index"] < 4 else 4 :]
        rank[choice["index"]] = sum(values) / len(values)
    order = [sorted(group, key=lambda i: -rank[i])[:2] for group in (range(4), range(4, 8))]
    expected = [made[i] for group in order for i in group]
    assert best == [{**choice, "index": i} for i, choice in enumerate(expected)]


async def test_probabilities_are_the_models_own(client: Client) -> None:
    plain = await choices_of(client, prompt="Hello")
    hot = await choices_of(
        client, prompt="Hello", temperature=2, top_k=1, logit_bias={"65": 100}, repetition_penalty=2
    )
    assert hot == plain
    (none,) = await choices_of(client, prompt="Hello", logprobs=0)
    assert none["logprobs"]["top_logprobs"] == [None] + [{}] * 5
    assert none["logprobs"]["token_logprobs"] == plain[0]["logprobs"]["token_logprobs"]
    for top in (await choices_of(client, prompt="Hello", logprobs=20))[0]["logprobs"]["top_logprobs"][1:]:
        assert sum(math.exp(value) for value in top.values()) <= 1 + 1e-6


async def test_forms_bind_the_answer_and_not_the_prompt(client: Client) -> None:
    for max_tokens, answer in ((0, ""), (5, "abab")):
        (choice,) = await choices_of(client, prompt="x", regex="(ab){2}", max_tokens=max_tokens)
        assert choice["text"] == "x" + answer
        assert choice["finish_reason"] == ("stop" if answer else "length")


class WatchedTokenizer(FakeTokenizer):
    """Notes which threads name tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def piece(self, token_id: int) -> bytes:
        self.threads.add(threading.get_ident())
        return super().piece(token_id)


async def test_a_long_prompt_is_named_off_the_loop() -> None:
    tokenizer = WatchedTokenizer()

    def load(settings: Settings) -> ChatModel:
        return ChatModel("watched", load_fake_engine(engine_options(settings)), tokenizer)

    async with open_client(load=load, context_length=8192) as client:
        (choice,) = await choices_of(client, prompt=[65, 66])
        assert threading.get_ident() in tokenizer.threads  # what is short is not worth a thread
        tokenizer.threads.clear()
        (choice,) = await choices_of(client, prompt=[65, 66] * 2100)
        assert choice["logprobs"]["tokens"] == ["A", "B"] * 2100
        assert choice["logprobs"]["text_offset"] == list(range(4200))
        assert tokenizer.threads
        assert threading.get_ident() not in tokenizer.threads


class SpacedTokenizer(FakeTokenizer):
    """Puts a space before a text, as SentencePiece does."""

    def encode_prompt(self, text: str, *, add_bos: bool = True) -> list[int]:
        ids = super().encode_prompt(text, add_bos=False)
        return [self.bos_id, 32, *ids]


async def test_a_space_that_the_tokenizer_adds_is_not_counted() -> None:
    def load(settings: Settings) -> ChatModel:
        return ChatModel("spaced", load_fake_engine(engine_options(settings)), SpacedTokenizer())

    async with open_client(load=load) as client:
        for prompt, offsets in (("abc", [0, 0, 0, 1, 2]), (" b", [0, 0, 0, 1])):
            (choice,) = await choices_of(client, prompt=prompt)
            assert choice["text"] == prompt
            assert choice["logprobs"]["text_offset"] == offsets
