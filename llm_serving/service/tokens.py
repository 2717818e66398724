"""Text to tokens and back, as the chat model sees them: count before you pay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from llm_serving.errors import InvalidRequest
from llm_serving.service.chat import INLINE_CHARS, ChatService
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry
from llm_serving.service.rendering import Conversation

INLINE_TOKENS = 4096  # more are named, or made text, on a thread


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, and whose they are."""

    model: ChatModel
    ids: list[int]

    async def pieces(self) -> list[str]:
        """What each is called."""

        def name() -> list[str]:
            return [self.model.tokenizer.piece(i).decode("utf-8", "replace") for i in self.ids]

        return await asyncio.to_thread(name) if len(self.ids) > INLINE_TOKENS else name()


class TokenService:
    """For the models of one registry."""

    def __init__(self, registry: Registry, chat: ChatService) -> None:
        self._registry = registry
        self._chat = chat

    async def of_text(
        self, text: str, *, adds_special: bool = True, reads_special: bool = True, model: str | None = None
    ) -> Tokens:
        """A text as `/completions` reads it; without what a model puts in front unless `adds_special`.

        Special tokens in it are plain text unless `reads_special`. Raises: ModelNotFound, ModelLoading,
        ModelUnavailable.
        """
        found = await self._model(model)

        def encode() -> list[int]:
            prompt = text if reads_special else found.tokenizer.guard(text)
            return found.tokenizer.encode_prompt(prompt, add_bos=adds_special)

        return Tokens(found, await asyncio.to_thread(encode) if len(text) > INLINE_CHARS else encode())

    async def of_conversation(self, conversation: Conversation, model: str | None = None) -> Tokens:
        """As `/chat/completions` reads it. Raises: as `of_text`, and what `ChatService.read` raises."""
        found = await self._model(model)
        return Tokens(found, (await self._chat.read(found, conversation, looks=False)).ids)

    async def _model(self, name: str | None) -> ChatModel:
        """Its tokenizer and its template outlive the engine, so it may leave meanwhile."""
        slot = self._registry.find(name)
        with slot.used():
            return await slot.ask()

    async def prompt_of(self, conversation: Conversation, model: str | None = None) -> str:
        """What the chat template makes of it. Raises: as `of_conversation`."""
        return await self._chat.write(await self._model(model), conversation)

    async def text_of(self, ids: list[int], model: str | None = None) -> str:
        """The text of these tokens, special ones by their names. Raises: as `of_text`, and InvalidRequest."""
        tokenizer = (await self._model(model)).tokenizer
        wrong = next((i for i in ids if not 0 <= i < tokenizer.vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(
                f"'tokens' holds {wrong}; token ids are 0 to {tokenizer.vocab_size - 1}.", "tokens"
            )
        decode = partial(tokenizer.decode, ids, skip_special=False)
        return await asyncio.to_thread(decode) if len(ids) > INLINE_TOKENS else decode()
