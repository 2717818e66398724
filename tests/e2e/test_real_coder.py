"""A model that people work with, Qwen2.5 Coder 1.5B, where somebody fetched it: functions, forms, code.

llm-serving models pull qwen2.5-coder-1.5b-instruct        # 1.1 GB, which no test fetches
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fake_server import running_server
from openai import OpenAI

from llm_serving.api.app import create_app
from llm_serving.config import Settings
from llm_serving.models import ModelCache, find_model

NAME = "qwen2.5-coder-1.5b-instruct"
SPEC = find_model(NAME)
pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(SPEC is None or ModelCache().find(SPEC) is None, reason=f"{NAME} is not here"),
]
CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Weather now", "parameters": CITY},
    },
    {"type": "function", "function": {"name": "get_time", "description": "Local time", "parameters": CITY}},
]


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    app = create_app(Settings(model_name=NAME, embedding_model=""))
    with running_server(app, ready_s=300) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        yield client


def asked(client: OpenAI, text: str, **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        model=NAME, messages=messages, temperature=0, max_tokens=200, **fields
    )


def named(calls: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def test_it_calls_a_function_in_its_own_way_and_goes_on_with_the_result(client: OpenAI) -> None:
    question = "What is the weather in Paris?"
    choice = asked(client, question, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert named(choice.message.tool_calls) == [("get_weather", {"city": "Paris"})]
    deltas = [chunk.choices[0].delta for chunk in asked(client, question, tools=TOOLS, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == ""
    assert named([call for delta in deltas for call in delta.tool_calls or []]) == [
        ("get_weather", {"city": "Paris"})
    ]
    result = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "18 degrees, rain"}
    history: Any = [{"role": "user", "content": question}, choice.message.model_dump(), result]
    told = client.chat.completions.create(model=NAME, messages=history, temperature=0, max_tokens=60)
    assert "18" in str(told.choices[0].message.content)


def test_it_calls_twice_where_it_must_call(client: OpenAI) -> None:
    answer = asked(client, "What is the weather in Paris and in Rome?", tools=TOOLS, tool_choice="required")
    found = named(answer.choices[0].message.tool_calls)
    assert found == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]


def test_it_fills_in_a_form(client: OpenAI) -> None:
    fields = {"name": {"type": "string"}, "age": {"type": "integer"}, "hobbies": {"type": "array"}}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    text = "Extract: John Smith, 42, lives in Oslo and likes chess and go."
    answer = json.loads(asked(client, text, response_format=form).choices[0].message.content)
    assert answer == {"name": "John Smith", "age": 42, "hobbies": ["chess", "go"]}


def test_it_fills_in_the_middle_of_code(client: OpenAI) -> None:
    prompt = "def quicksort(arr):\n    if len(arr) <= 1:\n        return arr\n    pivot = "
    suffix = "\n    return quicksort(left) + middle + quicksort(right)\n"
    filled = client.completions.create(
        model=NAME, prompt=prompt, suffix=suffix, max_tokens=100, temperature=0
    )
    tree = ast.parse(f"{prompt}{filled.choices[0].text}{suffix}")
    stored = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert stored >= {"pivot", "left", "middle", "right"}


def test_a_prompt_that_an_editor_wrote_itself_is_the_same(client: OpenAI) -> None:
    """Around a gap with the model's own tokens, as Continue does; and it ends where the gap does."""
    before = "def rectangle_area(width, height):\n    return wid"
    behind = "\n\n\nprint(rectangle_area(3, 4))\n"
    fields: Any = {"model": NAME, "max_tokens": 16, "temperature": 0, "stop": ["\n", "<|file_sep|>"]}
    own = f"<|fim_prefix|>{before}<|fim_suffix|>{behind}<|fim_middle|>"
    told = client.completions.create(prompt=own, **fields)
    suffixed = client.completions.create(prompt=before, suffix=behind, **fields)
    assert told.usage.prompt_tokens == suffixed.usage.prompt_tokens
    assert told.choices[0].text == suffixed.choices[0].text == "th * height"


def test_a_word_that_is_half_written_is_ended(client: OpenAI) -> None:
    asked = {
        "input_prefix": "def rectangle_area(width, height):\n",
        "input_suffix": "\n\n\nprint(rectangle_area(3, 4))\n",
        "prompt": "    return wid",
        "stop": ["\n"],
        "n_predict": 16,
        "temperature": 0,
    }
    assert client.post("/infill", body=asked, cast_to=dict[str, Any])["content"] == "th * height"


def test_it_completes_a_method_for_an_editor(client: OpenAI) -> None:
    """Whose class stands before, its other method behind, and who uses it in another file."""
    asked = {
        "input_prefix": "import math\n\nclass Circle:\n    def __init__(self, radius):\n"
        "        self.radius = radius\n\n    def area(self):\n",
        "input_suffix": "\n    def circumference(self):\n        return 2 * math.pi * self.radius\n",
        "input_extra": [{"filename": "main.py", "text": "print(Circle(2).area())\n"}],
        "prompt": "        return",
        "n_indent": 8,
        "n_predict": 64,
        "temperature": 0,
    }
    told = client.post("/infill", body=asked, cast_to=dict[str, Any])
    tree = ast.parse(f"{asked['input_prefix']}{asked['prompt']}{told['content']}{asked['input_suffix']}")
    assert "math.pi * self.radius ** 2" in ast.unparse(tree)
    assert told["stop_type"] == "eos"
