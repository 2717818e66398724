"""`POST /completions`, in process."""

from __future__ import annotations

import math
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
from llm_serving.checkpoints import FillIn
from llm_serving.config import Settings
from llm_serving.service.completion import CompletionRequest, prompts_ids
from llm_serving.service.generation import GenerationOptions
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio

REPLY = "Hello, world! 😀"


async def texts_of(client: Client, *, is_stream: bool = False, **fields: Any) -> list[str]:
    """Of every choice what a reader sees in the end."""
    response = await client.post("/completions", json={**fields, "stream": is_stream})
    assert response.status_code == 200, response.text
    answers = data_of(response.text)[:-1] if is_stream else [response.json()]
    texts: dict[int, str] = {}
    for choice in (choice for answer in answers for choice in answer["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return [texts[index] for index in range(len(texts))]


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_answer_has_openai_shape(client: Client, prefix: str) -> None:
    body = (await client.post(f"{prefix}/completions", json={"prompt": "Once", "max_tokens": 5})).json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["model"] == "fake"
    assert body["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 5


async def test_stream(client: Client) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = data_of((await client.post("/completions", json={"prompt": "Once", **options})).text)
    assert chunks.pop() == "[DONE]"
    usage = chunks.pop()
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 5
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == REPLY
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("prompt", "num_choices", "num_prompt"),
    [
        ("abc", 1, 4),
        (["abc"], 1, 4),
        (["abc", "de"], 2, 7),
        ([97, 98, 99], 1, 3),
        ([[97], [98, 99]], 2, 3),
    ],
)
async def test_every_shape_of_a_prompt(
    client: Client, prompt: Any, num_choices: int, num_prompt: int
) -> None:
    body = (await client.post("/completions", json={"prompt": prompt})).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(num_choices))
    assert {choice["text"] for choice in body["choices"]} == {REPLY}
    assert body["usage"]["prompt_tokens"] == num_prompt


async def test_choices_are_grouped_by_prompt() -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {"max_tokens": 20, "ignore_eos": True, "seed": 3, "n": 2, "temperature": 1.0}
        both = (await client.post("/completions", json={"prompt": ["a", "b"], **asked})).json()
        second = (await client.post("/completions", json={"prompt": "b", **asked})).json()
        texts = [choice["text"] for choice in both["choices"]]
        assert len(set(texts)) == 4
        assert texts[2:] == [choice["text"] for choice in second["choices"]]
        assert both["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize("is_stream", [False, True])
async def test_echo(client: Client, is_stream: bool) -> None:
    prompts = [[FIRST_SPECIAL, *"Zoë".encode()], [65, 0xFF]]
    asked = {"prompt": prompts, "n": 2, "max_tokens": 5, "echo": True}
    texts = await texts_of(client, is_stream=is_stream, **asked)
    assert texts == [SPECIAL_TOKENS[0] + "ZoëHello"] * 2 + ["A\ufffdHello"] * 2
    asked = {"prompt": "<|eos|> ", "max_tokens": 5, "stop": "eos", "echo": True}
    assert await texts_of(client, is_stream=is_stream, **asked) == ["<|eos|> Hello"]
    assert await texts_of(client, is_stream=is_stream, **{**asked, "echo": False}) == ["Hello"]


async def test_an_echo_costs_no_completion_tokens(client: Client) -> None:
    body = (await client.post("/completions", json={"prompt": "Once", "max_tokens": 1, "echo": True})).json()
    assert body["choices"][0] == {"index": 0, "text": "OnceH", "logprobs": None, "finish_reason": "length"}
    assert body["usage"]["completion_tokens"] == 1


def mean_logprob(choice: dict[str, Any]) -> float:
    logprobs = choice["logprobs"]["token_logprobs"]
    return float(sum(logprobs) / len(logprobs)) if logprobs else -math.inf


async def test_best_of_tells_the_likeliest() -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {"prompt": ["a", "b"], "max_tokens": 8, "seed": 3, "temperature": 1.0, "logprobs": 0}
        made = (await client.post("/completions", json={**asked, "n": 5})).json()
        best = (await client.post("/completions", json={**asked, "n": 2, "best_of": 5})).json()
        plain = {**asked, "n": 2, "best_of": 5, "logprobs": None, "echo": True}
        echoed = (await client.post("/completions", json=plain)).json()
        same = (await client.post("/completions", json={**asked, "n": 5, "best_of": 5})).json()
    expected = [
        choice
        for group in (made["choices"][:5], made["choices"][5:])
        for choice in sorted(group, key=mean_logprob, reverse=True)[:2]
    ]
    assert len({mean_logprob(choice) for choice in made["choices"]}) == 10
    assert best["choices"] == [{**choice, "index": i} for i, choice in enumerate(expected)]
    assert best["usage"]["completion_tokens"] == made["usage"]["completion_tokens"]
    assert best["usage"]["prompt_tokens"] == 4
    assert [choice["text"] for choice in echoed["choices"]] == [
        prompt + choice["text"] for prompt, choice in zip("aabb", expected, strict=True)
    ]
    assert {choice["logprobs"] for choice in echoed["choices"]} == {None}
    assert same["choices"] == made["choices"]


async def test_an_answer_without_tokens_is_the_worst() -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {"prompt": "a", "max_tokens": 1, "seed": 0, "temperature": 1.0, "logit_bias": {EOS_ID: 11}}
        made = (await client.post("/completions", json={**asked, "n": 8})).json()
        texts = [choice["text"] for choice in made["choices"]]
        assert 0 < texts.count("") < 8
        best = (await client.post("/completions", json={**asked, "n": 7, "best_of": 8})).json()
    kept = [choice["text"] for choice in best["choices"]]
    assert kept == sorted(kept, key=lambda text: text == "")
    assert kept.count("") == texts.count("") - 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 9}, "best_of"),  # more than run at the same time here
        ({"n": 9, "best_of": 9}, "n"),
        ({"prompt": ["x"] * 3, "best_of": 4}, "prompt"),
        ({"best_of": 10**30}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"best_of": "2"}, "best_of"),
    ],
)
async def test_best_of_that_is_refused(fields: dict[str, Any], param: str) -> None:
    async with open_client(max_concurrency=8, max_queue=2) as client:
        response = await client.post("/completions", json={"prompt": "x", **fields})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param
        assert f"'{param}'" in response.json()["error"]["message"]
        assert await texts_of(client, is_stream=True, prompt="x", best_of=1, max_tokens=1) != [""]


def filling_in(settings: Settings) -> ChatModel:
    """The fake model, with tokens for it; `o` ends what is filled in."""
    tokenizer = FakeTokenizer()
    ends = frozenset({NUM_BYTES + ord("o")})
    tokenizer.fill_in = FillIn(FIRST_SPECIAL + 1, FIRST_SPECIAL + 2, FIRST_SPECIAL + 3, ends, FIRST_SPECIAL)
    return ChatModel("filler", load_fake_engine(engine_options(settings), reply=REPLY), tokenizer)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_suffix(is_stream: bool) -> None:
    async with open_client(load=filling_in) as client:
        for prompt in ("Zoë", "", [65], [FIRST_SPECIAL, 65]):
            asked = {"prompt": prompt, "suffix": "<|eos|>é"}
            assert await texts_of(client, is_stream=is_stream, **asked) == ["Hell"]
        assert await texts_of(client, is_stream=is_stream, prompt="a", suffix="", max_tokens=6) == ["Hello,"]
        both = {"prompt": ["a", "b"], "suffix": "c", "echo": True, "n": 2}
        assert await texts_of(client, is_stream=is_stream, **both) == ["aHell"] * 2 + ["bHell"] * 2


async def test_tokens_of_a_suffix() -> None:
    async with open_client(load=filling_in, context_length=64) as client:
        model = client.services.registry.default.get()
        begin, before, behind, between = (FIRST_SPECIAL + i for i in range(4))
        expected = [begin, before, *b"ab", behind, *b"<|bos|>", between]

        def ids(*prompts: str | list[int], **fields: Any) -> list[list[int]]:
            return prompts_ids(model, CompletionRequest("r", prompts, GenerationOptions(), **fields))

        assert ids("ab", [*b"ab"], suffix="<|bos|>") == [expected, expected[1:]]
        assert ids("ab") == [[begin, *b"ab"]]
        assert ids("<|eos|>", suffix="b")[0][2:-3] == [*b"<|eos|>"]
        body = (await client.post("/completions", json={"prompt": "ab", "suffix": "<|bos|>"})).json()
        assert body["usage"]["prompt_tokens"] == len(expected)
        error = (await client.post("/completions", json={"prompt": "ab", "suffix": "x" * 9000})).json()
        assert error["error"]["code"] == "context_length_exceeded"


async def test_a_suffix_for_a_model_that_cannot_fill_in(client: Client) -> None:
    error = (await client.post("/completions", json={"prompt": "a", "suffix": "b"})).json()["error"]
    assert error["param"] == "suffix"
    assert "'fake' has no tokens" in error["message"]


async def test_special_tokens_in_a_prompt_are_read_unless_it_says_otherwise(client: Client) -> None:
    """Whoever writes the whole prompt writes its special tokens, too."""

    async def num_tokens(prompt: str, **fields: Any) -> int:
        asked = {"prompt": prompt, "max_tokens": 1, **fields}
        return (await client.post("/completions", json=asked)).json()["usage"]["prompt_tokens"]

    turn = "<|im_start|>user\nHi<|im_end|>"
    assert await num_tokens(turn) == 1 + len("user\nHi") + 2
    assert await num_tokens("<|bos|>" + turn) == 1 + len("user\nHi") + 2  # no second beginning
    assert await num_tokens(turn, parse_special=None) == 1 + len("user\nHi") + 2
    assert await num_tokens(turn, parse_special=False) == 1 + len(turn)


async def test_a_seed_of_minus_one_is_another_one_each_time() -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {"prompt": "a", "max_tokens": 20, "temperature": 1.0}
        assert len({(await texts_of(client, seed=-1, **asked))[0] for _ in range(4)}) > 1
        assert len({(await texts_of(client, seed=-2, **asked))[0] for _ in range(4)}) == 1
        greedy = await texts_of(client, **{**asked, "temperature": 0})
        assert await texts_of(client, seed=-1, top_p=0, **asked) == greedy


async def test_a_prompt_around_a_gap_ends_as_one_with_a_suffix() -> None:
    async with open_client(load=filling_in) as client:
        prompt = "<|eos|>ab<|im_start|>c<|im_end|>"
        ids = [FIRST_SPECIAL + 1, *b"ab", FIRST_SPECIAL + 2, ord("c"), FIRST_SPECIAL + 3]
        for gap in (prompt, ids):
            assert await texts_of(client, prompt=gap, max_tokens=20) == ["Hell"]
        assert await texts_of(client, prompt="ab", max_tokens=8) == ["Hello, w"]


async def test_long_prompt_is_tokenised_off_the_loop() -> None:
    async with open_client(context_length=20_000) as large:
        assert (await texts_of(large, prompt=[65] * 10_000, max_tokens=1, echo=True))[0][:-1] == "A" * 10_000
        body = (await large.post("/completions", json={"prompt": "x" * 10_000, "max_tokens": 1})).json()
        assert body["usage"]["prompt_tokens"] == 10_001
