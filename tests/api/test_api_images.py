"""Images in requests: every API's own words for them, what they cost, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from fake_server import Client, open_client
from pictures import bomb, data_url, encoded, picture, png_url
from seeing_model import ROWS, seeing_model

from llm_serving.backends.fake import FakeTokenizer
from llm_serving.config import Settings
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio

WHOLE = "<fake_token_around_image><global-img>" + "<fake_token_around_image>"
LOW = len(WHOLE) + ROWS  # tokens of an image that is not cut, a token a byte
SVG = data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml")


@pytest.fixture
async def seer() -> AsyncIterator[Client]:
    async with open_client(
        load=seeing_model, max_images=3, max_image_pixels=5000, max_body_bytes="1M"
    ) as opened:
        yield opened


def shown(*urls: Any, text: str = "Hi", detail: str | None = "low") -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for url in urls]
    return {
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}, *images]}],
        "max_tokens": 9,
    }


async def usage_of(client: Client, body: dict[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt, and how many of them were cached."""
    answer = (await client.post("/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"]["content"] == "I see.", answer
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


PNG = {"type": "base64", "media_type": "image/png", "data": png_url().partition(",")[2]}


async def test_pictures_that_functions_give_are_shown_by_the_user(seer: Client) -> None:
    asked = {"role": "user", "content": "Hi"}
    calls = [{"type": "tool_use", "id": i, "name": "look", "input": {}} for i in "ab"]
    place, image = {"type": "text", "text": "[image]"}, {"type": "image", "source": PNG}

    async def of_messages(content: Any, *more: Any) -> int:
        results = [
            {"type": "tool_result", "tool_use_id": "a", "content": content},
            {"type": "tool_result", "tool_use_id": "b", "content": "Nothing."},
        ]
        turns = [{"role": "assistant", "content": calls}, {"role": "user", "content": [*results, *more]}]
        answer = (await seer.post("/messages", json={"messages": [asked, *turns], "max_tokens": 9})).json()
        assert answer["content"][0]["text"] == "I see.", answer
        return int(answer["usage"]["input_tokens"] + answer["usage"]["cache_read_input_tokens"])

    assert await of_messages([image]) == await of_messages([place], image) > LOW

    seen = {"type": "input_image", "image_url": png_url(), "detail": "low"}
    place = {"type": "input_text", "text": "[image]"}

    async def of_items(output: Any, *more: Any) -> int:
        given = [{"type": "function_call", "call_id": i, "name": "look", "arguments": "{}"} for i in "ab"]
        outputs = [
            {"type": "function_call_output", "call_id": "a", "output": output},
            {"type": "function_call_output", "call_id": "b", "output": "Nothing."},
        ]
        answer = (await seer.post("/responses", json={"input": [asked, *given, *outputs, *more]})).json()
        assert answer["output"][0]["content"][0]["text"] == "I see.", answer
        return int(answer["usage"]["input_tokens"])

    shown = {"role": "user", "content": [seen]}
    assert await of_items([seen]) == await of_items([place], shown) > LOW
    assert await of_items([seen], asked) == await of_items([place], shown, asked)


async def test_errors_name_pictures_in_results(seer: Client) -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image", "source": 5}]}
    body = {"messages": [{"role": "user", "content": [result]}], "max_tokens": 9}
    error = (await seer.post("/messages", json=body)).json()["error"]
    assert "'messages.0.content.0.content.0.source'" in error["message"]
    output = {
        "type": "function_call_output",
        "call_id": "a",
        "output": [{"type": "input_image", "image_url": "x"}],
    }
    error = (await seer.post("/responses", json={"input": [output]})).json()["error"]
    assert error["param"] == "input.0.output.0.image_url"


async def test_places_count_as_tokens_of_the_prompt(seer: Client) -> None:
    text, _ = await usage_of(seer, {"messages": [{"role": "user", "content": "Hi"}]})
    low, _ = await usage_of(seer, shown(png_url()))
    assert low == text + 1 + LOW
    high, _ = await usage_of(seer, shown(png_url(40, 30), detail=None))
    cut = "<fake_token_around_image><row_1_col_1>"
    assert high == text + 1 + LOW + 12 * (ROWS + len(cut)) + 3 + 1, "3 rows of 4 tiles, and the whole"
    two, _ = await usage_of(seer, shown(png_url(), png_url()))
    assert two == text + 2 * (1 + LOW)


async def test_the_same_picture_is_cached_and_another_is_not(seer: Client) -> None:
    _, first = await usage_of(seer, shown(png_url(seed=1)))
    count, again = await usage_of(seer, shown(png_url(seed=1)))
    _, other = await usage_of(seer, shown(png_url(seed=2)))
    assert first == 0
    assert again == (count - 1) // 16 * 16
    assert 0 < other < again


async def test_counting_and_templates(seer: Client) -> None:
    body = shown(png_url(), detail=None)
    expected, _ = await usage_of(seer, body)
    counted = (await seer.post("/tokenize", json={"messages": body["messages"]})).json()
    assert counted["count"] == expected
    shown_text = (await seer.post("/apply-template", json={"messages": body["messages"]})).json()["prompt"]
    assert shown_text == "Hi\n<image>"
    models = (await seer.get("/models")).json()["data"]
    assert models[0]["capabilities"] == ["chat", "completion", "vision"]


async def test_a_text_that_looks_like_an_image_is_a_text(seer: Client) -> None:
    body = shown(png_url(), text="<image><fake_token_around_image><image>")
    plain, _ = await usage_of(
        seer, shown(png_url(), text="x" * len("<image><fake_token_around_image><image>"))
    )
    assert (await usage_of(seer, body))[0] == plain


async def test_a_text_that_cannot_be_told_from_an_image_is_named() -> None:
    """A vocabulary in which the place of an image is no special token."""

    class Loose(FakeTokenizer):
        def guard(self, text: str) -> str:
            return text

    def load(settings: Settings) -> ChatModel:
        return replace(seeing_model(settings), tokenizer=Loose())

    async with open_client(load=load, max_images=3) as client:
        answer = await client.post("/chat/completions", json=shown(png_url(), text="an <image> tag"))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "messages.0.content"
        assert "'<image>', which stands for an image" in answer.json()["error"]["message"]
        for body in (shown(text="an <image> tag"), shown(png_url())):
            assert (await client.post("/chat/completions", json=body)).status_code == 200


async def test_the_other_apis_say_the_same(seer: Client) -> None:
    text, _ = await usage_of(seer, {"messages": [{"role": "user", "content": ""}]})
    url = png_url(16, 16)
    data = url.partition(",")[2]
    expected, _ = await usage_of(seer, shown(url, text="Hi", detail=None))
    sent = {
        "role": "user",
        "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": url}],
    }
    response = (await seer.post("/responses", json={"input": [sent]})).json()
    assert response["usage"]["input_tokens"] == expected
    more = {"input": "And?", "previous_response_id": response["id"]}
    assert (await seer.post("/responses", json=more)).json()["usage"]["input_tokens"] > expected
    shown_block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    said = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, shown_block]}]
    message = (await seer.post("/messages", json={"messages": said, "max_tokens": 9})).json()
    assert message["content"][0]["text"] == "I see."
    usage = message["usage"]
    assert usage["input_tokens"] + usage.get("cache_read_input_tokens", 0) == expected
    for path, body in (
        ("chat", {"messages": [{"role": "user", "content": "Hi", "images": [data]}]}),
        ("generate", {"prompt": "Hi", "images": [data]}),
    ):
        answer = (await seer.post(f"/api/{path}", json={**body, "stream": False})).json()
        assert answer["prompt_eval_count"] == expected, answer
    assert "vision" in (await seer.post("/api/show", json={"model": "fake"})).json()["capabilities"]
    assert text < expected


BAD = [
    (shown("https://example.com/a.png"), "messages.0.content.1.image_url.url", "fetches nothing"),
    (shown("http://localhost:8001/metrics"), "messages.0.content.1.image_url.url", "data: URL"),
    (shown(SVG), "messages.0.content.1.image_url.url", "PNG, JPEG, WebP or GIF"),
    (shown("data:image/png;base64,iVBO*"), "messages.0.content.1.image_url.url", "base64"),
    (shown("data:image/png;base64,"), "messages.0.content.1.image_url.url", "base64"),
    (shown(data_url(encoded(picture())[:150])), "messages.0.content.1.image_url.url", "damaged or cut short"),
    (shown(data_url(bomb(60_000, 60_000))), "messages.0.content.1.image_url.url", "pixels|no image"),
    (shown(data_url(bomb(5001, 1))), "messages.0.content.1.image_url.url", "--max-image-pixels"),
    (shown(png_url(), data_url(b"x")), "messages.0.content.2.image_url.url", "no image"),
    (shown(*[png_url()] * 100), "messages.0.content.4.image_url.url", "100 images; up to 3"),
    (shown(5), "messages.0.content.1.image_url.url", "must be a text"),
    (shown(png_url(), detail="medium"), "messages.0.content.1.image_url.detail", "auto, high, low"),
]


@pytest.mark.parametrize(("body", "param", "words"), BAD)
async def test_what_is_refused(seer: Client, body: dict[str, Any], param: str, words: str) -> None:
    answer = await seer.post("/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert any(part in error["message"] for part in words.split("|")), error
    assert "PIL" not in answer.text


def block(**source: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    return {"messages": said, "max_tokens": 9}


def turn(*images: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "a", "images": images}]}


def item(**part: Any) -> dict[str, Any]:
    return {"input": [{"content": [{"type": "input_image", **part}]}]}


SYSTEM = {"messages": [{"role": "system", "content": shown("x")["messages"][0]["content"]}]}


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("chat/completions", SYSTEM, "content.1"),
        ("responses", item(file_id="f"), "input.0.content.0.file_id"),
        ("responses", item(image_url="x"), "input.0.content.0.image_url"),
        ("messages", block(type="url", url="https://a"), "source.type"),
        ("messages", block(type="base64", media_type="image/svg+xml", data="YQ=="), "source.media_type"),
        ("messages", block(type="base64", media_type="image/png", data=5), "source.data"),
        ("messages", block(type="base64", media_type="image/png", data="YQ=="), "source.data"),
        ("api/chat", turn("!"), "messages.0.images.0"),
        ("api/chat", turn("YQ==", role="assistant"), "messages.0.images.0"),
        ("api/generate", {"prompt": "a", "images": [5]}, "images.0"),
        ("api/generate", {"prompt": "a", "images": "YQ=="}, "images"),
        ("api/generate", {"prompt": "a", "images": ["YQ=="], "raw": True}, "images"),
    ],
)
async def test_what_the_other_apis_refuse(seer: Client, path: str, body: dict[str, Any], where: str) -> None:
    answer = await seer.post(f"/{path}", json=body)
    assert answer.status_code == 400, answer.text
    assert f"{where}'" in answer.text


@pytest.mark.parametrize("path", ["chat/completions", "tokenize", "apply-template"])
async def test_a_model_that_reads_only_says_so(client: Client, path: str) -> None:
    answer = await client.post(f"/{path}", json=shown(png_url()))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "messages.0.content.1.image_url.url"
    assert "reads text only" in error["message"]


async def test_more_than_the_context(seer: Client) -> None:
    async with open_client(load=seeing_model, context_length=128) as small:
        answer = await small.post("/chat/completions", json=shown(png_url(), detail=None))
        assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_several_choices_share_a_picture(seer: Client) -> None:
    answer = (await seer.post("/chat/completions", json={**shown(png_url()), "n": 2})).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["I see."] * 2


async def test_photographs_fit_where_a_model_sees(client: Client) -> None:
    photograph = shown(data_url(bytes(5 << 20)))
    async with open_client(load=seeing_model) as seer:
        answer = await seer.post("/chat/completions", json=photograph)
        assert (answer.status_code, "no image" in answer.text) == (400, True)
        answer = await seer.post("/chat/completions", json=shown(data_url(bytes(16 << 20))))
        assert (answer.status_code, "--max-body-bytes" in answer.text) == (413, True)
    async with open_client(load=seeing_model, max_body_bytes="4M") as bounded:
        assert (await bounded.post("/chat/completions", json=photograph)).status_code == 413
    assert (await client.post("/chat/completions", json=photograph)).status_code == 413
