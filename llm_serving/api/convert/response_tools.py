"""`/responses`: tools of several kinds → functions, which are what models know, and back.

A custom tool takes a text, so it is a function of one; a namespace is the functions in it. OpenAI's API
reference, "Create a response", `tools`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from llm_serving.api.convert.renaming import Names
from llm_serving.chat.tools import check_number
from llm_serving.errors import InvalidRequest, UnsupportedParameter

TEXT = "input"  # what a custom tool's only argument is called
_SEARCHES = re.compile(r"web_search(_preview)?(_\d{4}_\d{2}_\d{2})?")
_PLACE = re.compile(r"(?<![\w.])tools\.(\d{1,3})(?!\d)")
_REMEDY = "This server knows tools of type 'function', 'custom' and 'namespace'."


class Origin(NamedTuple):
    """As what a function was sent."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class SentTools:
    """What a request sent as `tools`."""

    functions: Sequence[Any] = ()  # as the chat API has them, not looked at further
    origins: Mapping[str, Origin] = field(default_factory=dict)  # by what the model knows a function as
    known: Mapping[tuple[str, str | None], str] = field(default_factory=dict)  # by name and namespace
    told: Sequence[Any] = ()  # as they were sent: those that the model is told of
    places: Sequence[str] = ()  # where each function was sent

    @property
    def names(self) -> Names:
        """What errors must be told by; see `convert/renaming.py`."""
        return ((_PLACE, self._place),)

    def _place(self, found: re.Match[str]) -> str:
        index = int(found[1])
        return self.places[index] if index < len(self.places) else found[0]  # what a client calls so

    def origin(self, name: str) -> Origin:
        """What the model calls so."""
        return self.origins.get(name) or Origin(name)

    def known_as(self, item: Mapping[str, Any]) -> Any:
        """What the model knows the function as that an item names; the name itself if it is none of these."""
        name, namespace = item.get("name"), item.get("namespace")
        if not isinstance(name, str) or not isinstance(namespace, str | None):
            return name
        return self.known.get((name, namespace), name)


def is_search(tool: Any) -> bool:
    """Whether it is OpenAI's own search of the web, which agents offer unasked, and nobody here can do."""
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    return isinstance(kind, str) and _SEARCHES.fullmatch(kind) is not None


def searches(tools: Sequence[Any]) -> dict[str, Any]:
    """Those that are left out, by where they were sent."""
    return {f"tools.{i}": tool for i, tool in enumerate(tools) if is_search(tool)}


def read_tools(tools: Sequence[Any]) -> SentTools:
    """Searches are left out: a model may always do without.

    Functions of a namespace are known by their own names, or where these are taken by `namespace.name`.
    Raises: InvalidRequest that names the field, UnsupportedParameter.
    """
    told = [tool for tool in tools if not is_search(tool)]
    check_number(sum(map(_num_functions, told)))
    found = list(_flat(tools))
    counts = Counter(origin.name for _, origin, _ in found)
    origins: dict[str, Origin] = {}
    for _, origin, function in found:
        if origin.namespace is not None and counts[origin.name] > 1:
            function["name"] = f"{origin.namespace}.{origin.name}"
        if isinstance(function["name"], str):
            origins.setdefault(function["name"], origin)
    known = {(origin.name, origin.namespace): name for name, origin in origins.items()}
    functions = [{"type": "function", "function": function} for _, _, function in found]
    return SentTools(functions, origins, known, told, [place for place, _, _ in found])


def text_of(arguments: str) -> str:
    """What a custom tool is called with: the text, or whatever the model wrote in its place."""
    text = orjson.loads(arguments).get(TEXT)
    return text if isinstance(text, str) else arguments


def _num_functions(tool: Any) -> int:
    inner = tool.get("tools") if isinstance(tool, Mapping) and tool.get("type") == "namespace" else None
    return len(inner) if isinstance(inner, list) else 1


def _flat(tools: Sequence[Any]) -> Iterator[tuple[str, Origin, dict[str, Any]]]:
    """(where it was sent, as what, the function) of each."""
    for i, tool in enumerate(tools):
        at = f"tools.{i}"
        if is_search(tool):
            continue
        if not isinstance(tool, dict):
            raise InvalidRequest(f"'{at}' must be an object.", at)
        if tool.get("type") == "namespace":
            yield from _of_namespace(tool, at)
        else:
            yield at, *_function(tool, at)


def _of_namespace(space: Mapping[str, Any], at: str) -> Iterator[tuple[str, Origin, dict[str, Any]]]:
    name, tools, about = space.get("name"), space.get("tools"), space.get("description")
    if not isinstance(name, str):
        raise InvalidRequest(f"'{at}.name' must be a text.", f"{at}.name")
    if not isinstance(tools, list):
        raise InvalidRequest(f"'{at}.tools' must be a list of tools.", f"{at}.tools")
    for j, tool in enumerate(tools):
        where = f"{at}.tools.{j}"
        if not isinstance(tool, dict):
            raise InvalidRequest(f"'{where}' must be an object.", where)
        origin, function = _function(tool, where)
        said = function.get("description")
        if isinstance(about, str) and about and (said is None or isinstance(said, str)):
            function["description"] = f"{about}\n{said}" if said else about
        yield where, origin._replace(namespace=name), function


def _function(tool: Mapping[str, Any], at: str) -> tuple[Origin, dict[str, Any]]:
    kind, name = tool.get("type"), tool.get("name")
    if kind == "function":
        function = {key: tool[key] for key in tool if key != "type"}
        return Origin(str(name)), {**function, "name": name}
    if kind != "custom":
        raise UnsupportedParameter(f"{at}.type", _REMEDY)
    text = {"type": "string", **_grammar(tool.get("format"), f"{at}.format")}
    parameters = {
        "type": "object",
        "properties": {TEXT: text},
        "required": [TEXT],
        "additionalProperties": False,
    }
    function = {"name": name, "description": tool.get("description"), "parameters": parameters}
    return Origin(str(name), is_custom=True), function


def _grammar(form: Any, at: str) -> dict[str, str]:
    """What the model is told of the text: a grammar does not bind it."""
    if form is None or form == {"type": "text"}:
        return {}
    syntax, rules = (
        (form.get("syntax"), form.get("definition")) if isinstance(form, Mapping) else (None, None)
    )
    if not isinstance(form, Mapping) or form.get("type") != "grammar":
        raise InvalidRequest(f"'{at}' must be an object of type 'text' or 'grammar'.", at)
    if syntax not in ("lark", "regex"):
        raise InvalidRequest(f"'{at}.syntax' must be 'lark' or 'regex'.", f"{at}.syntax")
    if not isinstance(rules, str):
        raise InvalidRequest(f"'{at}.definition' must be a text.", f"{at}.definition")
    kind = "Lark grammar" if syntax == "lark" else "regular expression"
    return {"description": f"A text of this {kind}:\n{rules}"}
