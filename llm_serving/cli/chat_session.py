"""Who answers in `llm-serving chat`: a server over HTTP, or a model in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import httpx
import orjson

from llm_serving.cli.addresses import api_base
from llm_serving.config import Settings
from llm_serving.errors import ServingError
from llm_serving.models import OnProgress

Turns = list[dict[str, str]]  # {"role": …, "content": …}


@dataclass(slots=True)
class Usage:
    """Of the last answer; 0 where the other side did not say."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    num_left_out: int = 0  # of the oldest messages, since the conversation is too long


class Said(NamedTuple):
    """A piece of an answer, or of what the model thinks before it."""

    thoughts: str = ""
    text: str = ""


class ChatSession(Protocol):
    """One loop, one answer at a time. Closing the iterator of `answer` stops the model."""

    usage: Usage

    async def open(self) -> str:
        """Get ready; the model's name. Raises: ServingError."""
        ...

    def answer(self, turns: Turns) -> AsyncGenerator[Said, None]:
        """Raises: ServingError."""
        ...

    async def close(self) -> None: ...


class ServerSession:
    """Any server that speaks the OpenAI API."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        model: str | None,
        temperature: float | None,
        max_tokens: int | None,
    ) -> None:
        self._base = api_base(url)
        self._model = model
        given = {"temperature": temperature, "max_tokens": max_tokens}
        self._options = {name: value for name, value in given.items() if value is not None}
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Prefill of a long prompt may take minutes without a byte; connecting may not.
        self._client = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(None, connect=10.0))
        self.usage = Usage()

    async def open(self) -> str:
        try:
            response = await self._client.get(f"{self._base}/models")
            if response.status_code != 200:
                raise ServingError(_failure(response.status_code, response.content))
            data = orjson.loads(response.content).get("data") or []
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServingError(f"No answer from {self._base}: {error}. Is a server running there?") from error
        except (ValueError, AttributeError) as error:
            raise ServingError(f"{self._base}/models is not the OpenAI API.") from error
        self._model = self._model or (str(data[0]["id"]) if data else "default")
        return self._model

    async def answer(self, turns: Turns) -> AsyncGenerator[Said, None]:
        self.usage = Usage()
        body = {
            "model": self._model,
            "messages": turns,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._options,
        }
        try:
            async with self._client.stream("POST", f"{self._base}/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise ServingError(_failure(response.status_code, await response.aread()))
                async for line in response.aiter_lines():
                    said = self._take(line)
                    if any(said):
                        yield said
        except httpx.HTTPError as error:
            raise ServingError(
                f"The connection to {self._base} broke: {error or type(error).__name__}."
            ) from error

    async def close(self) -> None:
        await self._client.aclose()

    def _take(self, line: str) -> Said:
        if not line.startswith("data:") or line == "data: [DONE]":
            return Said()
        data: dict[str, Any] = orjson.loads(line[5:])
        if "error" in data:
            raise ServingError(_failure(0, orjson.dumps(data)))
        if data.get("usage"):
            usage = data["usage"]
            self.usage = Usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        choices = data.get("choices") or [{}]
        delta = choices[0].get("delta", {})
        thoughts = delta.get("reasoning_content") or delta.get("reasoning") or ""
        return Said(thoughts, delta.get("content") or "")


class LocalSession:
    """A model in this process, through the same services that the server uses."""

    def __init__(self, settings: Settings, on_progress: OnProgress) -> None:
        self._settings = settings
        self._on_progress = on_progress
        self.usage = Usage()

    async def open(self) -> str:
        from llm_serving.service.chat import ChatService
        from llm_serving.service.generation import GenerationDefaults
        from llm_serving.service.loader import load_chat_model
        from llm_serving.service.registry import Registry

        settings = self._settings.model_copy(update={"lora": ()})
        # Blocks the loop, which has nothing else to do: so Ctrl-C ends a download at once.
        model = load_chat_model(settings, self._on_progress)
        encoders = {"embedding_model": "", "reranker_model": "", "classifier_model": ""}
        others = {**encoders, "further_models": (), "unload_after_s": 0.0}
        alone = settings.model_copy(update=others)
        self._registry = Registry(alone, lambda _settings: model)
        self._registry.start()
        await self._registry.first.settled()
        temperature = settings.temperature if settings.do_sample else 0.0
        defaults = GenerationDefaults(settings.max_new_tokens, temperature)
        self._service = ChatService(self._registry, defaults, settings.system_prompt)
        return model.name

    async def answer(self, turns: Turns) -> AsyncGenerator[Said, None]:
        from llm_serving.api.convert.reading import AnswerReader
        from llm_serving.api.convert.tools import NO_TOOLS
        from llm_serving.service.chat import ChatRequest
        from llm_serving.service.generation import GenerationOptions
        from llm_serving.service.rendering import Conversation

        self.usage = Usage()
        conversation = Conversation([_message(turn) for turn in turns])
        request = ChatRequest("chat", conversation, GenerationOptions(), leaves_out=True)
        async with await self._service.open(request) as generation:
            reader = AnswerReader(generation, NO_TOOLS)
            async for batch in generation:
                for _, event in batch:
                    self.usage = Usage(
                        event.num_prompt_tokens, event.num_completion_tokens, generation.num_left_out
                    )
                    piece = reader.feed(event)
                    if any(piece):
                        yield Said(piece.thoughts, piece.text)

    async def close(self) -> None:
        await self._registry.close()


def _message(turn: dict[str, str]) -> Any:
    return {"role": turn["role"], "content": turn["content"]}


def _failure(status: int, body: bytes) -> str:
    try:
        message = str(orjson.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    return f"The server refused ({status}): {message}" if status else f"The server failed: {message}"
