"""`/embeddings`: body → service request; vectors → response, without a Python object a number."""

from __future__ import annotations

import asyncio
from binascii import b2a_base64
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from llm_serving.api.convert.texts import check_count, to_texts, to_token_ids
from llm_serving.api.schemas.embedding import DEFAULT_MODEL, EmbedRequest
from llm_serving.errors import InvalidRequest
from llm_serving.service.embedding import EmbeddingRequest, Embeddings

_NUMBERS_A_PIECE = 1 << 15  # about a millisecond of writing, then others have their turn


def to_request(body: EmbedRequest, max_inputs: int) -> EmbeddingRequest:
    """Raises: InvalidRequest that names the item."""
    return EmbeddingRequest(
        model=None if body.model == DEFAULT_MODEL else body.model,
        dimensions=body.dimensions,
        truncate_to=truncation(body.truncate_prompt_tokens),
        input_type=body.input_type,
        prompt_name=body.prompt_name,
        **to_inputs(body.input, "input", max_inputs),
    )


def to_inputs(items: list[Any], name: str, max_inputs: int) -> dict[str, Any]:
    """The fields of an `EmbeddingRequest` that tell what to embed, of the list that was sent as `name`.

    The first item tells what it is of. Raises: InvalidRequest that names the item.
    """
    if items and type(items[0]) is int:
        return {"token_arrays": [to_token_ids(items, name)], "name_of": lambda index: name}
    check_count(items, name, max_inputs)
    name_of = f"{name}.{{}}".format
    if isinstance(items[0], list):
        arrays = [_token_array(item, name_of(i)) for i, item in enumerate(items)]
        return {"token_arrays": arrays, "name_of": name_of}
    return {"texts": to_texts(items, name), "name_of": name_of}


def truncation(tokens: int | None) -> int | None:
    """Raises: InvalidRequest for 0, which the schema cannot tell from its neighbours."""
    if tokens == 0:
        raise InvalidRequest("'truncate_prompt_tokens' must be -1, or at least 1.", "truncate_prompt_tokens")
    return tokens


async def to_body(embeddings: Embeddings, encoding_format: str) -> bytes:
    """The JSON of the response; written in pieces, so that many vectors hold up nobody."""
    to_json = _base64_objects if encoding_format == "base64" else _float_objects
    objects = await in_pieces(embeddings.vectors, to_json)
    usage = {"prompt_tokens": embeddings.num_tokens, "total_tokens": embeddings.num_tokens}
    tail = orjson.dumps({"model": embeddings.model.name, "usage": usage})
    return b'{"object":"list","data":[' + objects + b"]," + tail[1:]


async def in_pieces(rows: np.ndarray, to_json: Callable[[np.ndarray, int], bytes]) -> bytes:
    """What `to_json` makes of some rows and the first one's index, of all rows, with commas between."""
    vectors = np.ascontiguousarray(rows, dtype="<f4")
    step = max(1, _NUMBERS_A_PIECE // vectors.shape[1])
    pieces = []
    for start in range(0, len(vectors), step):
        if start:
            await asyncio.sleep(0)
        pieces.append(to_json(vectors[start : start + step], start))
    return b",".join(pieces)


def _float_objects(rows: np.ndarray, start: int) -> bytes:
    objects = [{"object": "embedding", "index": start + i, "embedding": row} for i, row in enumerate(rows)]
    return orjson.dumps(objects, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _base64_objects(rows: np.ndarray, start: int) -> bytes:
    return b",".join(
        b'{"object":"embedding","index":%d,"embedding":"%b"}' % (start + i, b2a_base64(row, newline=False))
        for i, row in enumerate(rows)
    )


def _token_array(item: Any, name: str) -> list[int]:
    if not isinstance(item, list):
        raise InvalidRequest(f"'{name}' must be a list of token ids, as the first item is one.", name)
    return to_token_ids(item, name)
