"""What an answer must look like, by the names that OpenAI, vLLM and llama.cpp have for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llm_serving.api.schemas.sampling import SamplingFields, StructuredOutputs
from llm_serving.backends.constraints import Choice, Form, Grammar, JsonSchema, Regex
from llm_serving.chat.messages import is_within
from llm_serving.errors import InvalidRequest

MAX_SCHEMA_BYTES = 1 << 18
MAX_SCHEMA_DEPTH = 128
_TYPES = "text, json_object or json_schema"
_SCHEMA = "response_format.json_schema.schema"


def to_form(body: SamplingFields) -> tuple[Form | None, str]:
    """The form, and the field it comes from.

    Raises: InvalidRequest for more than one, or a format that is none.
    """
    found = list(_forms(body))
    if len(found) > 1:
        names = " and ".join(f"'{param.split('.')[0]}'" for _, param in found)
        raise InvalidRequest(f"{names} both say what the answer looks like. Send one.", found[1][1])
    return found[0] if found else (None, "")


def _forms(body: SamplingFields) -> Iterator[tuple[Form, str]]:
    if body.response_format is not None:
        yield from _of_format(body.response_format)
    outputs = body.structured_outputs or StructuredOutputs.model_construct()
    if outputs.json_object:
        yield JsonSchema({"type": "object"}), "structured_outputs.json_object"
    for schema, param in (
        (outputs.json_schema, "structured_outputs.json"),
        (body.json_schema, "json_schema"),
        (body.guided_json, "guided_json"),
    ):
        if schema is not None:
            yield _of_schema(schema, param), param
    for asked, prefix in ((body, ""), (_guided(body), "guided_"), (outputs, "structured_outputs.")):
        if asked.regex is not None:
            yield Regex(asked.regex), f"{prefix}regex"
        if asked.grammar is not None:
            yield Grammar(asked.grammar), f"{prefix}grammar"
        if asked.choice is not None:
            yield Choice(asked.choice), f"{prefix}choice"


def _guided(body: SamplingFields) -> StructuredOutputs:
    """vLLM's older names."""
    return StructuredOutputs.model_construct(
        regex=body.guided_regex, grammar=body.guided_grammar, choice=body.guided_choice
    )


def _of_format(value: dict[str, Any]) -> Iterator[tuple[Form, str]]:
    kind = value.get("type")
    if kind == "text":
        return
    if kind == "json_object":
        yield JsonSchema({"type": "object"}), "response_format"
        return
    if kind != "json_schema":
        raise InvalidRequest(f"'response_format.type' must be {_TYPES}.", "response_format.type")
    wrapper = value.get("json_schema")
    yield _of_schema(wrapper.get("schema") if isinstance(wrapper, dict) else None, _SCHEMA), _SCHEMA


def _of_schema(schema: Any, param: str) -> JsonSchema:
    if isinstance(schema, str):
        if len(schema) > MAX_SCHEMA_BYTES:
            raise InvalidRequest(f"'{param}' has more than {MAX_SCHEMA_BYTES} bytes.", param)
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"'{param}' is no JSON: {error}.", param) from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"'{param}' must be a JSON schema, an object.", param)
    if not is_within(schema, MAX_SCHEMA_DEPTH):
        raise InvalidRequest(f"'{param}' is nested more than {MAX_SCHEMA_DEPTH} levels deep.", param)
    if len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"'{param}' has more than {MAX_SCHEMA_BYTES} bytes.", param)
    return JsonSchema(schema)
