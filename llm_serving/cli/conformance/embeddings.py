"""Group `embeddings`."""

from __future__ import annotations

import base64
import struct
from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.reading import cosine, is_number
from llm_serving.cli.conformance.server import Server

_PATH = "/embeddings"
_TEXTS = [
    "The cat sat on the mat.",
    "Interest rates rose by half a percent, and the markets fell.",
    "Wie spät ist es? 日本語",
]
_LONG_WORDS = 100_000
_SAME = 0.999  # cosine of a text alone and in a batch; rounding, and no more


def _body(server: Server, given: Any, **fields: Any) -> dict[str, Any]:
    if not server.embedding_model:
        raise Skipped("no model here gives embeddings")
    return {"model": server.embedding_model, "input": given, **fields}


async def _embed(server: Server, given: Any, *, may_refuse: bool = False, **fields: Any) -> dict[str, Any]:
    body = _body(server, given, **fields)
    answer: dict[str, Any] = await server.post(_PATH, body, may_refuse=may_refuse)
    return answer


async def _batch(server: Server) -> dict[str, Any]:
    return await server.once("embeddings", lambda: _embed(server, _TEXTS))


def _vector(item: dict[str, Any]) -> list[float]:
    vector = item["embedding"]
    expect(isinstance(vector, list) and vector, f"embedding is {short(vector)}")
    expect(all(is_number(x) for x in vector), f"a vector with something else than numbers: {short(vector)}")
    return list(vector)


async def _shape(server: Server) -> str:
    answer = await _batch(server)
    expect(answer.get("object") == "list", f"object is {answer.get('object')!r}")
    expect(isinstance(answer.get("model"), str), f"model is {answer.get('model')!r}")
    lengths = set()
    for item in answer["data"]:
        expect(item.get("object") == "embedding", f"object of an item is {item.get('object')!r}")
        lengths.add(len(_vector(item)))
    expect(len(lengths) == 1, f"vectors of different lengths: {lengths}")
    return f"{lengths.pop()} dimensions"


async def _order(server: Server) -> str:
    indices = [item["index"] for item in (await _batch(server))["data"]]
    expect(indices == [0, 1, 2], f"the indices are {indices}")
    return ""


async def _batch_as_singles(server: Server) -> str:
    found = {item["index"]: _vector(item) for item in (await _batch(server))["data"]}
    for i, text in enumerate(_TEXTS):
        alone = _vector((await _embed(server, text))["data"][0])
        alike = cosine(found[i], alone)
        expect(alike > _SAME, f"text {i} in the batch and alone have a cosine of {alike:.4f}")
    return ""


async def _base64(server: Server) -> str:
    plain = _vector((await _embed(server, _TEXTS[0], encoding_format="float"))["data"][0])
    packed = (await _embed(server, _TEXTS[0], may_refuse=True, encoding_format="base64"))["data"][0]
    text = packed["embedding"]
    expect(isinstance(text, str), f"embedding is no text: {short(text)}")
    data = base64.b64decode(text, validate=True)
    expect(len(data) == 4 * len(plain), f"{len(data)} bytes for {len(plain)} numbers")
    numbers = struct.unpack(f"<{len(plain)}f", data)
    wrong = max(abs(a - b) for a, b in zip(plain, numbers, strict=True))
    expect(wrong < 1e-5, f"numbers differ by {wrong:.2g}")
    return ""


async def _dimensions(server: Server) -> str:
    answer = await _embed(server, _TEXTS[0], may_refuse=True, dimensions=8)
    length = len(_vector(answer["data"][0]))
    expect(length == 8, f"{length} numbers in place of 8")
    return ""


async def _token_arrays(server: Server) -> str:
    answer = await _embed(server, [[100, 200, 300], [101]], may_refuse=True)
    expect(len(answer["data"]) == 2, f"{len(answer['data'])} vectors for two token arrays")
    for item in answer["data"]:
        _vector(item)
    return ""


async def _empty(server: Server) -> str:
    inputs: tuple[Any, ...] = ("", [])
    for given in inputs:
        answer = await server.ask("POST", _PATH, _body(server, given))
        expect(answer.status == 400, f"input {given!r}: {answer}")
    return ""


async def _wrong_type(server: Server) -> str:
    answer = await server.ask("POST", _PATH, _body(server, {"text": 5}))
    expect(answer.status == 400, str(answer))
    return ""


async def _usage(server: Server) -> str:
    usage = (await _batch(server))["usage"]
    prompt, total = usage["prompt_tokens"], usage["total_tokens"]
    expect(type(prompt) is int and prompt >= len(_TEXTS) and prompt == total, f"usage is {short(usage)}")
    return ""


async def _too_long(server: Server) -> str:
    words = " ".join("abcdefghij"[i % 10] for i in range(_LONG_WORDS))
    answer = await server.ask("POST", _PATH, _body(server, words))
    if answer.status == 200:
        count = answer.json()["usage"]["prompt_tokens"]
        expect(count >= _LONG_WORDS, f"{_LONG_WORDS} words were read as {count} tokens, and embedded")
        raise Skipped(f"the model reads {count} tokens")
    expect(answer.status in (400, 413), str(answer))
    return ""


def _of(field: str) -> str:
    return f"OpenAI API reference, embeddings, {field}"


CHECKS = (
    Check("shape", "A list of vectors, all finite and of one length.", _of("the embedding object"), _shape),
    Check("order", "Vectors come in the order of the texts, with their index.", _of("input"), _order),
    Check(
        "batch as singles",
        "A text has the same vector in a batch and alone.",
        "servers whose padding or pooling mixes the texts of a batch",
        _batch_as_singles,
    ),
    Check(
        "base64", "base64 holds the same numbers as little-endian floats.", _of("encoding_format"), _base64
    ),
    Check("dimensions", "dimensions: 8 gives eight numbers.", _of("dimensions"), _dimensions),
    Check("token arrays", "A list of token arrays is read.", _of("input"), _token_arrays),
    Check("empty input", "An empty text, and no text, are a 400.", _of("input"), _empty),
    Check("wrong input", "An input of a wrong type is a 400.", _of("input"), _wrong_type),
    Check("usage", "usage counts the tokens of all texts.", _of("usage"), _usage),
    Check(
        "too long a text",
        "A text over the context is a 400, and never cut unasked; usage tells.",
        "silently cut documents that are found by their beginning only",
        _too_long,
    ),
)
