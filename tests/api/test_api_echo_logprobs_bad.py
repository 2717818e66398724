"""`echo` with `logprobs`: bodies that are refused, and what bounds them."""

from __future__ import annotations

from typing import Any

import pytest
from fake_server import Client, open_client

from llm_serving.backends.fake import VOCAB_SIZE, FakeTokenizer, load_fake_engine
from llm_serving.config import Settings
from llm_serving.errors import InvalidRequest
from llm_serving.service import completion as service
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio

SCORED = {"echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": False}, "max_tokens"),
        ({"echo": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0.0}, "max_tokens"),
        ({"max_tokens": False}, "max_tokens"),
        ({"max_tokens": "0"}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": 1}, "echo"),
        ({"suffix": "b"}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [VOCAB_SIZE]}, "prompt"),
        ({"prompt": [[1], [-1]]}, "prompt.1"),
        ({"prompt": [65] * 4096}, "prompt"),
    ],
    ids=str,
)
async def test_what_is_refused(client: Client, fields: dict[str, Any], param: str, stream: bool) -> None:
    response = await client.post("/completions", json={**SCORED, "prompt": "a", "stream": stream, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert client.stats.num_waiting == client.stats.num_running == 0


async def test_chat_still_wants_a_token(client: Client) -> None:
    for fields in ({"max_tokens": 0}, {"max_completion_tokens": 0}):
        asked = {"messages": [{"role": "user", "content": "a"}], **fields}
        assert (await client.post("/chat/completions", json=asked)).status_code == 400


async def test_numbers_of_one_request_are_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_LOGPROBS", 24)
    for fields, is_taken in (
        ({"prompt": [65] * 12}, True),
        ({"prompt": [65] * 13}, False),
        ({"prompt": [[65] * 4] * 3}, True),
        ({"prompt": [[65] * 4] * 3, "logprobs": 2}, False),
        ({"prompt": [65] * 6, "n": 2}, True),
        ({"prompt": [65] * 6, "n": 3}, False),
        ({"prompt": [65] * 6, "best_of": 3}, False),
        ({"prompt": [65] * 100, "echo": False, "max_tokens": 1}, True),
        ({"prompt": [65] * 100, "logprobs": None}, True),
    ):
        response = await client.post("/completions", json={**SCORED, **fields})
        assert response.status_code == (200 if is_taken else 400), fields
        if not is_taken:
            assert response.json()["error"]["param"] == "logprobs"
            assert "24" in response.json()["error"]["message"]


async def test_a_model_that_tells_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(settings: Settings) -> ChatModel:
        engine = load_fake_engine(engine_options(settings))

        async def refuse(request: Any) -> Any:
            if request.sampling.prompt_logprobs is not None:
                raise InvalidRequest("Leave out 'echo'.", "echo")
            return await submit(request)

        submit = engine.submit
        monkeypatch.setattr(engine, "submit", refuse)
        return ChatModel("last", engine, FakeTokenizer())

    async with open_client(load=load) as client:
        for stream in (False, True):
            response = await client.post("/completions", json={**SCORED, "prompt": "a", "stream": stream})
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "echo"
