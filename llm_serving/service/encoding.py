"""Texts, pairs and token arrays → an encoder's rows; what is wrong with one of them is said by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import ContextLengthExceeded, EngineDead, InvalidRequest
from llm_serving.service.chat import INLINE_CHARS
from llm_serving.service.model import EncoderModel
from llm_serving.service.slot import ModelSlot

LOADING_WAIT_S = 10.0  # a request that comes while the model is being loaded waits so long for it

CUT = "truncate_prompt_tokens"

NameOf = Callable[[int], str]  # index of a text → the field that holds it


class TextTooLong(ContextLengthExceeded):
    """A text does not fit the encoder, and cutting was not asked for."""

    def __init__(self, num_tokens: int, limit: int, param: str) -> None:
        InvalidRequest.__init__(
            self,
            f"'{param}' has {num_tokens} tokens with special tokens, and this model takes {limit}. "
            f"Shorten it, or send {CUT}: -1 to have its end cut off.",
            param,
        )
        self.num_prompt = num_tokens
        self.num_max = 0
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Encoded:
    """float32 rows in the order of the inputs, and what was read for them."""

    rows: np.ndarray
    num_tokens: int


async def encode(
    slot: ModelSlot[EncoderModel],
    model: EncoderModel,
    num_texts: int,
    num_chars: int,
    prepare: Callable[[], list[EncoderInput]],
) -> Encoded:
    """Run `prepare`, on a thread if the texts are long, and encode what it returns.

    Raises: Overloaded (before anything is tokenised, if that is known), EngineDead, RequestCancelled,
    and what `prepare` raises.
    """
    try:
        model.batcher.require_room(num_texts)
        inputs = await asyncio.to_thread(prepare) if num_chars > INLINE_CHARS else prepare()
        rows = await model.batcher.encode(inputs)
    except EngineDead as error:
        slot.fail(model, error)
        raise
    return Encoded(rows, sum(len(item.token_ids) for item in inputs))


def text_inputs(
    model: EncoderModel, texts: Sequence[str], name_of: NameOf, cut: int | None, prompt: str = ""
) -> list[EncoderInput]:
    """One input a text, with the model's `prompt` before it; `cut` as in `_Fit`.

    Raises: InvalidRequest, TextTooLong.
    """
    check_not_empty(texts, name_of)
    fit = _Fit(model, cut)
    encoded = model.tokenizer.encode_batch(texts, prompt)
    return [EncoderInput(fit(ids, name_of(i))) for i, ids in enumerate(encoded)]


def token_inputs(
    model: EncoderModel, arrays: Sequence[list[int]], name_of: NameOf, cut: int | None
) -> list[EncoderInput]:
    """One input a token array; special tokens are added where it has none.

    Raises: InvalidRequest, TextTooLong.
    """
    check_not_empty(arrays, name_of)
    fit = _Fit(model, cut)
    inputs = []
    for i, array in enumerate(arrays):
        try:
            ids = model.tokenizer.add_special(array)
        except ValueError as error:
            raise InvalidRequest(
                f"'{name_of(i)}' is no text of this model: {error} "
                "A client that tokenises for other models must send text.",
                name_of(i),
            ) from None
        inputs.append(EncoderInput(fit(ids, name_of(i))))
    return inputs


def pair_inputs(
    model: EncoderModel,
    queries: Sequence[str],
    documents: Sequence[str],
    name_of: NameOf,
    cut: int | None,
) -> list[EncoderInput]:
    """One input a document, with its query or the only one. Cutting takes from the longer text first.

    Raises: InvalidRequest, TextTooLong.
    """
    fit = _Fit(model, cut)
    room = fit.to if cut is not None else None
    try:
        if len(queries) == 1:
            encoded = model.tokenizer.encode_pairs(queries[0], documents, room)
        else:
            pairs = zip(queries, documents, strict=True)
            encoded = [model.tokenizer.encode_pairs(query, [text], room)[0] for query, text in pairs]
    except ValueError as error:
        raise InvalidRequest(f"'{CUT}' is too low: {error}", CUT) from None
    return [EncoderInput(fit(ids, name_of(i)), second) for i, (ids, second) in enumerate(encoded)]


def check_not_empty(texts: Sequence[str] | Sequence[list[int]], name_of: NameOf) -> None:
    """Raises: InvalidRequest that names the first empty one."""
    for i, text in enumerate(texts):
        if not text:
            raise InvalidRequest(f"'{name_of(i)}' is empty: there is nothing to read.", name_of(i))


class _Fit:
    """Keeps token ids within the model's limit: refuses, or cuts to `cut` tokens where that is given.

    -1 stands for the limit itself. Raises: InvalidRequest if `cut` is beyond it.
    """

    def __init__(self, model: EncoderModel, cut: int | None) -> None:
        limit = model.batcher.max_tokens
        if cut is not None and cut != -1 and not 1 <= cut <= limit:
            raise InvalidRequest(f"'{CUT}' must be -1, or from 1 to {limit} for this model.", CUT)
        self.to = limit if cut is None or cut == -1 else cut
        self._cuts = cut is not None
        self._tokenizer = model.tokenizer

    def __call__(self, ids: list[int], name: str) -> list[int]:
        """Raises: TextTooLong; InvalidRequest if special tokens alone do not fit."""
        if len(ids) <= self.to:
            return ids
        if not self._cuts:
            raise TextTooLong(len(ids), self.to, name)
        try:
            return self._tokenizer.truncate(ids, self.to)
        except ValueError as error:
            raise InvalidRequest(f"'{CUT}' is too low: {error}", CUT) from None
