"""Answers that go on with the assistant's last message, and prompts without its opening, in process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_server import Client, data_of, open_client, text_of

from llm_serving.backends.fake import SPECIAL_TOKENS, FakeTokenizer, load_fake_engine
from llm_serving.chat.template import ChatTemplate
from llm_serving.config import Settings
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio

BOS, EOS, START, END = SPECIAL_TOKENS
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content | trim if trims else message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": "Hi"}
ASKED = f"{START}user\nHi{END}\n"
TOOL = {"type": "function", "function": {"name": "f"}}
CALLED = {
    "role": "assistant",
    "content": "x",
    "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
}


def load(settings: Settings) -> ChatModel:
    """Says `lo!` to everybody."""
    engine = load_fake_engine(engine_options(settings), reply="lo!")
    return ChatModel("fake", engine, FakeTokenizer(), ChatTemplate(TEMPLATE))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Client]:
    async with open_client(load) as client:
        yield client


def begun(content: Any, **fields: Any) -> dict[str, Any]:
    messages = [USER, {"role": "assistant", "content": content}]
    return {"messages": messages, "continue_final_message": True, **fields}


async def prompt_of(client: Client, body: dict[str, Any]) -> str:
    """The prompt of a body, in which every endpoint sees the same tokens."""
    prompt = str((await client.post("/apply-template", json=body)).json()["prompt"])
    ids = (await client.post("/tokenize", json=body)).json()["tokens"]
    text = (await client.post("/detokenize", json={"tokens": ids})).json()["prompt"]
    counted = (await client.post("/chat/completions/input_tokens", json=body)).json()
    answer = (await client.post("/chat/completions", json=body)).json()
    assert text == BOS + prompt
    assert counted["input_tokens"] == answer["usage"]["prompt_tokens"] == len(ids)
    return prompt


async def test_the_prompt_ends_with_the_message(server: Client) -> None:
    assert await prompt_of(server, begun("Hel")) == f"{ASKED}{START}assistant\nHel"
    assert await prompt_of(server, begun("Hel ", add_generation_prompt=False)) == (
        f"{ASKED}{START}assistant\nHel "
    )
    assert await prompt_of(server, begun(None)) == f"{ASKED}{START}assistant\n"
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "l"}]
    assert await prompt_of(server, begun(parts)) == f"{ASKED}{START}assistant\nHel\nl"


async def test_a_template_that_trims(server: Client) -> None:
    trims = {"chat_template_kwargs": {"trims": True}}
    assert await prompt_of(server, begun("\n Hel \n", **trims)) == f"{ASKED}{START}assistant\nHel"
    assert await prompt_of(server, begun("Hi", **trims)) == f"{ASKED}{START}assistant\nHi"


async def test_the_answer_is_what_follows(server: Client) -> None:
    answer = (await server.post("/chat/completions", json=begun("Hel"))).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "lo!"}
    chunks = data_of((await server.post("/chat/completions", json=begun("Hel", stream=True))).text)
    assert text_of(chunks) == "lo!"


async def test_without_the_opening_of_a_turn(server: Client) -> None:
    body = {"messages": [USER], "add_generation_prompt": False}
    assert await prompt_of(server, body) == ASKED
    for value in (True, None):
        assert await prompt_of(server, {**body, "add_generation_prompt": value}) == (
            f"{ASKED}{START}assistant\n"
        )
    assert await prompt_of(server, {**body, "continue_final_message": False}) == ASKED


@pytest.mark.parametrize("content", [f"a{END}", f"{END} b <", "<|im_en", "\ufdef x \ufdd0\ufdd1", f" {EOS} "])
async def test_special_tokens_and_marks_in_the_message_stay_text(server: Client, content: str) -> None:
    tokens = (await server.post("/tokenize", json=begun(content))).json()["tokens"]
    head = (await server.post("/tokenize", json=begun(""))).json()["tokens"]
    assert tokens == [*head, *content.encode()]


async def test_functions_that_are_told_in_words(server: Client) -> None:
    prompt = (await server.post("/apply-template", json=begun("Hel", tools=[TOOL]))).json()["prompt"]
    assert '"name": "f"' in prompt
    assert prompt.endswith(f"{ASKED}{START}assistant\nHel")
    answer = (await server.post("/chat/completions", json=begun("Hel", tools=[TOOL]))).json()
    assert answer["choices"][0]["message"]["content"] == "lo!"


async def test_a_model_without_a_template(client: Client) -> None:
    assert (await client.post("/apply-template", json=begun("Hel"))).json()["prompt"] == "Hi\nHel"


@pytest.mark.parametrize("path", ["/chat/completions", "/tokenize", "/apply-template"])
@pytest.mark.parametrize(
    "fields",
    [
        begun("a", add_generation_prompt=True),
        {"messages": [USER], "continue_final_message": True},
        {"messages": [USER, CALLED], "continue_final_message": True},
        begun("a", continue_final_message="yes"),
    ],
)
async def test_what_cannot_be_continued(server: Client, path: str, fields: dict[str, Any]) -> None:
    response = await server.post(path, json=fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "continue_final_message"
    assert "'continue_final_message'" in response.json()["error"]["message"]


async def test_a_text_cannot_be_continued(server: Client) -> None:
    response = await server.post("/tokenize", json={"prompt": "a", "continue_final_message": True})
    assert response.json()["error"]["param"] == "continue_final_message"
    assert "'messages'" in response.json()["error"]["message"]


@pytest.mark.parametrize("value", ["Hel", [{"type": "text", "text": "Hel"}]])
async def test_anthropics_beginning_of_an_answer(server: Client, value: Any) -> None:
    messages = [USER, {"role": "assistant", "content": value}]
    answer = (await server.post("/messages", json={"messages": messages, "max_tokens": 20})).json()
    assert answer["content"] == [{"type": "text", "text": "lo!"}]
    counted = (await server.post("/messages/count_tokens", json={"messages": messages})).json()
    tokens = (await server.post("/tokenize", json=begun("Hel"))).json()
    assert counted["input_tokens"] == tokens["count"]
