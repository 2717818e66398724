"""`/embed` and `/similarity`: body → service request, vectors → response."""

from __future__ import annotations

import re

import numpy as np
import orjson

from llm_serving.api.convert.embedding import in_pieces, to_inputs
from llm_serving.api.convert.renaming import TRUNCATE
from llm_serving.api.convert.texts import check_count, to_texts
from llm_serving.api.schemas.inference import EmbedInputs, SimilarityRequest
from llm_serving.embeddings.vectors import cosines, unit
from llm_serving.errors import InvalidRequest
from llm_serving.service.embedding import EmbeddingRequest, Embeddings

# What `/similarity` calls otherwise.
NAMES = (
    *TRUNCATE,
    (re.compile(r"\b(prompt_name|truncate: true)"), r"parameters.\1"),
)


def to_embed_request(body: EmbedInputs, max_inputs: int) -> EmbeddingRequest:
    """Raises: InvalidRequest that names the item."""
    items = body.inputs
    if not isinstance(items, str | list):
        raise InvalidRequest("'inputs' must be a text, a list of texts, or of lists of token ids.", "inputs")
    return EmbeddingRequest(
        model=body.model,
        dimensions=body.dimensions,
        truncate_to=-1 if body.truncate else None,
        prompt_name=body.prompt_name,
        **to_inputs([items] if isinstance(items, str) else items, "inputs", max_inputs),
    )


async def to_embed_body(embeddings: Embeddings) -> bytes:
    """A list of vectors, float32 of length 1."""
    return b"[" + await in_pieces(unit(embeddings.vectors), _rows) + b"]"


def to_similarity_request(body: SimilarityRequest, max_inputs: int) -> EmbeddingRequest:
    """The one first. Raises: InvalidRequest that names the sentence."""
    sentences, parameters = body.inputs.sentences, body.parameters
    check_count(sentences, "inputs.sentences", max_inputs)
    texts = to_texts(sentences, "inputs.sentences")
    return EmbeddingRequest(
        texts=[body.inputs.source_sentence, *texts],
        name_of=lambda index: f"inputs.sentences.{index - 1}" if index else "inputs.source_sentence",
        model=body.model,
        truncate_to=-1 if parameters and parameters.truncate else None,
        prompt_name=parameters.prompt_name if parameters else None,
    )


def to_similarities(embeddings: Embeddings) -> list[float]:
    """The cosine of each to the first."""
    found: list[float] = cosines(embeddings.vectors[:1], embeddings.vectors[1:]).tolist()
    return found


def _rows(rows: np.ndarray, start: int) -> bytes:
    return orjson.dumps(list(rows), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
