"""`/classify` and `/predict`: body → service request; probabilities → response."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from llm_serving.api.convert.answer import new_id
from llm_serving.api.convert.embedding import truncation
from llm_serving.api.convert.texts import check_count, to_texts, to_token_ids
from llm_serving.api.schemas.classification import ClassifyRequest, PredictRequest
from llm_serving.errors import InvalidRequest
from llm_serving.service.classification import ClassificationRequest, Classified, Text


def to_classify_request(body: ClassifyRequest, max_inputs: int) -> ClassificationRequest:
    """The first item tells whether the list is of token ids. Raises: InvalidRequest that names the item."""
    fields: dict[str, Any] = {
        "model": body.model,
        "truncate_to": truncation(body.truncate_prompt_tokens),
        "raw": body.use_activation is False,
    }
    items = body.input
    if items and type(items[0]) is int:
        return ClassificationRequest(
            token_arrays=[to_token_ids(items, "input")], name_of=lambda index: "input", **fields
        )
    check_count(items, "input", max_inputs)
    if isinstance(items[0], list):
        arrays = [to_token_ids(_list(item, f"input.{i}"), f"input.{i}") for i, item in enumerate(items)]
        return ClassificationRequest(token_arrays=arrays, **fields)
    return ClassificationRequest(texts=[_text(item, f"input.{i}") for i, item in enumerate(items)], **fields)


def to_classify_response(classified: Classified) -> dict[str, Any]:
    """vLLM's shape, and the names of all classes in the order of `probs`."""
    labels = classified.classes.labels
    data = [
        {"index": i, "label": labels[best], "probs": row, "num_classes": len(labels)}
        for i, (row, best) in enumerate(
            zip(classified.values.tolist(), classified.values.argmax(1).tolist(), strict=True)
        )
    ]
    return {
        "id": new_id("classify"),
        "object": "list",
        "created": int(time.time()),
        "model": classified.model.name,
        "labels": labels,
        "data": data,
        "usage": {"prompt_tokens": classified.num_tokens, "total_tokens": classified.num_tokens},
    }


def to_predict_request(body: PredictRequest, max_inputs: int) -> ClassificationRequest:
    """Raises: InvalidRequest that names the item."""
    inputs, name = body.inputs, "inputs.{}".format
    if isinstance(inputs, str):
        texts: list[Text] = [(inputs,)]
    elif is_one(inputs):
        texts = [_sequence(inputs, "inputs")]
    else:
        check_count(inputs, "inputs", max_inputs)
        texts = [_sequence(_list(item, name(i)), name(i)) for i, item in enumerate(inputs)]
    return ClassificationRequest(
        texts=texts,
        name_of=(lambda index: "inputs") if is_one(inputs) else name,
        model=body.model,
        truncate_to=-1 if body.truncate else None,
        raw=body.raw_scores is True,
    )


def to_predict_response(body: PredictRequest, classified: Classified) -> list[Any]:
    """Each text's classes, the likeliest first; without the outer list where one text was sent."""
    labels = classified.classes.labels
    rows = [
        [{"score": float(row[i]), "label": labels[i]} for i in np.argsort(-row, kind="stable")]
        for row in classified.values
    ]
    return rows[0] if is_one(body.inputs) else rows


def is_one(inputs: str | list[Any]) -> bool:
    """A text, or a list of strings: two of them are a pair."""
    return isinstance(inputs, str) or (bool(inputs) and isinstance(inputs[0], str))


def _sequence(parts: list[Any], name: str) -> Text:
    if len(parts) not in (1, 2):
        raise InvalidRequest(
            f"'{name}' has {len(parts)} texts. Send one, a pair of two, or many as lists of their own: "
            '[["first"], ["second"]].',
            name,
        )
    texts = to_texts(parts, name)
    return (texts[0],) if len(texts) == 1 else (texts[0], texts[1])


def _text(item: Any, name: str) -> Text:
    if isinstance(item, str):
        return (item,)
    pair = [item.get("text"), item.get("text_pair")] if isinstance(item, dict) else []
    match pair:
        case [str() as text, None]:
            return (text,)
        case [str() as text, str() as second]:
            return (text, second)
    raise InvalidRequest(f"'{name}' must be a string, or an object with 'text' and 'text_pair'.", name)


def _list(item: Any, name: str) -> list[Any]:
    if not isinstance(item, list):
        raise InvalidRequest(f"'{name}' must be a list, as the first item is one.", name)
    return item
