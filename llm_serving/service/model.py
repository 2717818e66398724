"""What a loaded model is to the use-cases: something that runs it, and the text side that belongs to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from llm_serving.backends.constraints import Constraints, GuidedTokenizer
from llm_serving.chat import harmony
from llm_serving.chat.notations.teaching import IN_WORDS, Teaching, teaching_of
from llm_serving.chat.reasoning import ThoughtFormat, format_of
from llm_serving.chat.template import as_parts, takes_texts
from llm_serving.checkpoints import Classes, FillIn, ScoreActivation
from llm_serving.embeddings.batcher import Batcher
from llm_serving.engine.channels import Channel, ChannelIds
from llm_serving.engine.protocol import Engine
from llm_serving.service.facts import ModelFacts, ModelProfile
from llm_serving.service.vision import Vision


class ModelKind(str, Enum):
    """What a model is for."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANKER = "reranker"
    CLASSIFIER = "classifier"


class PromptTokenizer(GuidedTokenizer, Protocol):
    """The part of a tokenizer that requests and answers need."""

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """What each token adds to the text: nothing if it is a special one, or has no id here."""
        ...

    @property
    def fill_in(self) -> FillIn | None:
        """The tokens for filling in between two texts, if there are some."""
        ...

    @property
    def prompt_ids(self) -> Mapping[str, int]:
        """The strings that stand for one token in a prompt."""
        ...

    @property
    def bos_id(self) -> int | None: ...
    @property
    def bos_token(self) -> str: ...

    def guard(self, text: str) -> str:
        """Mark text of users, so that special tokens in it are read as plain text."""
        ...

    def encode_prompt(self, text: str, *, add_bos: bool = True) -> list[int]: ...
    def encode_behind(self, text: str) -> list[int]: ...
    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str: ...


class PromptTemplate(Protocol):
    """A chat template: messages with `role` and string `content`, other inputs by name; prompt text out."""

    source: str

    def render(self, messages: Sequence[Mapping[str, Any]], /, **kwargs: Any) -> str: ...


class EncoderTokenizer(Protocol):
    """What turns texts into an encoder's input, special tokens included."""

    def encode_batch(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """Ids of each text behind `prompt`, which is the model's own and may hold special tokens."""
        ...

    def encode_pairs(
        self, first: str, seconds: Sequence[str], max_tokens: int | None = None
    ) -> list[tuple[list[int], int]]:
        """(ids of both texts, where the second begins) of each pair, cut only with `max_tokens`.

        Raises: ValueError if that leaves no room for text.
        """
        ...

    def truncate(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """Cut the end, not the special tokens. Raises: ValueError as `encode_pairs`."""
        ...

    def add_special(self, token_ids: Sequence[int]) -> list[int]:
        """Special tokens where they are missing. Raises: ValueError for an id outside the vocabulary."""
        ...


@dataclass(frozen=True, slots=True)
class ChatModel:
    """Ready to answer. Without a template, the contents of the messages are the prompt."""

    name: str
    engine: Engine
    tokenizer: PromptTokenizer
    template: PromptTemplate | None = None
    fingerprint: str = ""
    created: int = 0  # unix seconds, when it was loaded
    details: Mapping[str, Any] = field(default_factory=dict)  # for `/models`
    facts: ModelFacts | None = None  # of its files, if there are any
    vision: Vision | None = None  # what it reads images with, if it does
    sight_remedy: str = ""  # what would let it, if it does not
    adapters: tuple[str, ...] = ()  # fingerprints of the model with each of them
    wants_parts: bool = field(init=False)  # whether its template takes no contents that are texts
    thoughts: ThoughtFormat | None = field(init=False)  # how it thinks, if it does
    teaching: Teaching = field(init=False)  # how it is told of functions, and calls them
    constraints: Constraints = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "thoughts", format_of(self.template.source) if self.template else None)
        template = self.template if self.vision is not None else None
        wants_parts = template is not None and not takes_texts(template.render)
        object.__setattr__(self, "wants_parts", wants_parts)
        object.__setattr__(self, "teaching", self._teaching())
        object.__setattr__(self, "constraints", Constraints(self.tokenizer, self.engine.vocab_size))

    def _teaching(self) -> Teaching:
        template = self.template
        if template is None:
            return IN_WORDS

        def render(messages: Sequence[Mapping[str, Any]], **more: Any) -> str:
            told = (
                [{**m, "content": as_parts(m["content"])} for m in messages] if self.wants_parts else messages
            )
            return template.render(told, **more)

        return teaching_of(template.source, render, lambda mark: len(self._ids(mark)) == 1)

    def call_marks(self) -> dict[str, int]:
        """The tokens of its notation of calls that text cannot become."""
        found = {mark: self._ids(mark) for mark in self.teaching.notation.marks}
        return {
            mark: ids[0]
            for mark, ids in found.items()
            if len(ids) == 1 and self.tokenizer.encode(mark) != list(ids)
        }

    def reasoning_ids(self) -> tuple[int, int] | None:
        """The tokens that stand around thoughts; None if they are not one token each."""
        if self.thoughts is None or self.thoughts.has_channels:
            return None
        ids = [self._ids(tag) for tag in (self.thoughts.open, self.thoughts.close)]
        return (ids[0][0], ids[1][0]) if all(len(one) == 1 for one in ids) else None

    def channel_ids(self) -> ChannelIds | None:
        """The tokens of harmony's headers; None if the model writes others, or its marks are no tokens."""
        marks = (harmony.START, harmony.CHANNEL, harmony.MESSAGE, harmony.END)
        is_harmony = self.thoughts is not None and self.thoughts.has_channels
        if not is_harmony or any(len(self._ids(mark)) != 1 for mark in marks):
            return None
        headers = {
            Channel.ANALYSIS: harmony.ANALYSIS,
            Channel.FINAL: harmony.FINAL,
            Channel.PREAMBLE: harmony.PREAMBLE,
            Channel.CALL: harmony.CALL,
        }
        return ChannelIds(
            self._ids(harmony.BEGUN),
            {channel: self._ids(header) for channel, header in headers.items()},
            self._ids(harmony.END)[0],
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode_prompt(text, add_bos=False))

    @property
    def profile(self) -> ModelProfile:
        architecture, sees = self.details.get("architecture", ""), self.vision is not None
        return ModelProfile(self.engine.max_context, architecture, self.facts, sees=sees)

    @property
    def device(self) -> str:
        return self.engine.stats().device

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, give running ones `drain_s` seconds, free the engine."""
        await self.engine.close(drain_s)
        if self.vision is not None:
            await asyncio.to_thread(self.vision.close)


@dataclass(frozen=True, slots=True)
class EncoderModel:
    """Ready to embed, to score pairs if it is a reranker, or to classify."""

    name: str
    batcher: Batcher
    tokenizer: EncoderTokenizer
    prompts: Mapping[str, str] = field(default_factory=dict)  # what goes before a text, by name
    default_prompt: str = ""  # the text itself
    activation: ScoreActivation = "sigmoid"  # of a reranker: what makes a score of its logit
    classes: Classes | None = None  # of a classifier
    created: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    facts: ModelFacts | None = None

    @property
    def profile(self) -> ModelProfile:
        architecture = self.details.get("architecture", "")
        return ModelProfile(self.batcher.max_tokens, architecture, self.facts, self.batcher.dimensions)

    @property
    def device(self) -> str:
        return self.batcher.device

    async def close(self, drain_s: float = 0.0) -> None:
        """As `ChatModel.close`."""
        await self.batcher.close(drain_s)
