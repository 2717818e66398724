"""`response_format`, `regex`, `grammar` and `choice` → what the answer must look like."""

from __future__ import annotations

from typing import Any

import orjson

from llm_serving.api.schemas.sampling import SamplingFields
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
    found: list[tuple[Form, str]] = []
    if body.response_format is not None:
        found += _of_format(body.response_format)
    if body.regex is not None:
        found.append((Regex(body.regex), "regex"))
    if body.grammar is not None:
        found.append((Grammar(body.grammar), "grammar"))
    if body.choice is not None:
        found.append((Choice(body.choice), "choice"))
    if len(found) > 1:
        names = " and ".join(f"'{param.split('.')[0]}'" for _, param in found)
        raise InvalidRequest(f"{names} both say what the answer looks like. Send one.", found[1][1])
    return found[0] if found else (None, "")


def _of_format(value: dict[str, Any]) -> list[tuple[Form, str]]:
    kind = value.get("type")
    if kind == "text":
        return []
    if kind == "json_object":
        return [(JsonSchema({"type": "object"}), "response_format")]
    if kind != "json_schema":
        raise InvalidRequest(f"'response_format.type' must be {_TYPES}.", "response_format.type")
    wrapper = value.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"'{_SCHEMA}' must be a JSON schema, an object.", _SCHEMA)
    if not is_within(schema, MAX_SCHEMA_DEPTH):
        raise InvalidRequest(f"'{_SCHEMA}' is nested more than {MAX_SCHEMA_DEPTH} levels deep.", _SCHEMA)
    if len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"'{_SCHEMA}' has more than {MAX_SCHEMA_BYTES} bytes.", _SCHEMA)
    return [(JsonSchema(schema), _SCHEMA)]
