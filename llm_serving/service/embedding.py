"""Embedding: texts or token arrays in, one vector each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.embeddings.vectors import shorten
from llm_serving.errors import InvalidRequest
from llm_serving.service.encoding import LOADING_WAIT_S, NameOf, encode, text_inputs, token_inputs
from llm_serving.service.model import EncoderModel
from llm_serving.service.registry import EncoderSlot, Registry

# What clients call the two sides of a search, and the names that models give to the prompts for them.
_QUERY, _DOCUMENT = ("query", "search_query"), ("document", "passage", "search_document")
INPUT_TYPES = {**dict.fromkeys(_QUERY, _QUERY), **dict.fromkeys(_DOCUMENT, _DOCUMENT)}


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """What to embed. `texts` are read unless there are `token_arrays`; `name_of` tells the field of each."""

    texts: Sequence[str] = ()
    token_arrays: Sequence[list[int]] = ()
    name_of: NameOf = "input.{}".format
    model: str | None = None
    dimensions: int | None = None
    truncate_to: int | None = None  # tokens; -1 = what the model takes
    input_type: str | None = None
    prompt_name: str | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """float32 [texts, dimensions]."""

    model: EncoderModel
    vectors: np.ndarray
    num_tokens: int


class EmbeddingService:
    """Embeddings from the models of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """All vectors, in the order of the request.

        Raises: InvalidRequest, TextTooLong, ModelNotFound, ModelLoading, ModelUnavailable, Overloaded,
        EngineDead, RequestCancelled.
        """
        slot = self._registry.find_embedding(request.model)
        with slot.used():
            return await self._embed(slot, await slot.ask(LOADING_WAIT_S), request)

    async def _embed(self, slot: EncoderSlot, model: EncoderModel, request: EmbeddingRequest) -> Embeddings:
        size = model.batcher.dimensions
        dimensions = size if request.dimensions is None else request.dimensions
        if not 1 <= dimensions <= size:
            raise InvalidRequest(
                f"'dimensions' is {dimensions}; the vectors of '{model.name}' have {size}.", "dimensions"
            )
        prefix = prefix_of(model, request)

        def prepare() -> list[EncoderInput]:
            cut = request.truncate_to
            if request.token_arrays:
                return token_inputs(model, request.token_arrays, request.name_of, cut)
            return text_inputs(model, request.texts, request.name_of, cut, prefix)

        num_texts = len(request.token_arrays) or len(request.texts)
        encoded = await encode(slot, model, num_texts, sum(map(len, request.texts)), prepare)
        return Embeddings(model, shorten(encoded.rows, dimensions), encoded.num_tokens)


def prefix_of(model: EncoderModel, request: EmbeddingRequest) -> str:
    """What goes before each text. A model without prompts reads queries and documents alike.

    Raises: InvalidRequest (unknown name or type, both at once, or a prompt for token arrays).
    """
    name, kind = request.prompt_name, request.input_type
    if name is not None and kind is not None:
        raise InvalidRequest("'prompt_name' and 'input_type' say the same thing. Send one.", "prompt_name")
    if kind is not None and kind not in INPUT_TYPES:
        raise InvalidRequest(f"'input_type' must be one of {', '.join(INPUT_TYPES)}.", "input_type")
    if name is not None and name not in model.prompts:
        known = ", ".join(model.prompts) or "none"
        raise InvalidRequest(
            f"'prompt_name' is not of the prompts of '{model.name}': {known}.", "prompt_name"
        )
    names = [name] if name is not None else INPUT_TYPES.get(kind or "", ())
    prefix = next((model.prompts[one] for one in names if one in model.prompts), model.default_prompt)
    if prefix and request.token_arrays and names:
        param = "input_type" if name is None else "prompt_name"
        raise InvalidRequest(f"'{param}' needs text: token arrays are taken as they are.", param)
    return prefix
