"""A scripted model that writes harmony, as gpt-oss does, and what it says."""

from __future__ import annotations

from typing import Any

from thinker import thinker

from llm_serving.service.registry import LoadModel

# In the shape of gpt-oss's: one call a message, thoughts of calls only, instructions in front only.
HARMONY = r"""<|start|>system<|message|>
{%- if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif -%}
Reasoning: {{ reasoning_effort }}<|end|>
{%- if messages[0].role == 'system' %}{% set told = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set told = '' %}{% set turns = messages %}{% endif %}
{%- if told or tools %}<|start|>developer<|message|>{{ told }}
{%- for tool in tools or [] %}
{{- '\ntype ' ~ tool.function.name ~ ' = ' }}{{ tool.function.parameters | tojson }}
{%- endfor %}<|end|>{% endif %}
{%- set last = namespace(name=none) %}
{%- for m in turns %}
{%- if m.role == 'assistant' and 'tool_calls' in m %}
{%- if m.content and m.thinking %}{{ raise_exception('either content or thinking') }}{% endif %}
{%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}
{%- set call = m.tool_calls[0].function %}{% set last.name = call.name %}
{{- '<|start|>assistant to=functions.' ~ call.name ~ '<|channel|>commentary json<|message|>' }}
{{- call.arguments | tojson }}<|call|>
{%- elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>
{%- elif m.role == 'tool' %}
{%- if last.name is none %}{{ raise_exception('a result without a call') }}{% endif %}
{{- '<|start|>functions.' ~ last.name ~ ' to=assistant<|channel|>commentary<|message|>' }}
{{- m.content | tojson }}<|end|>
{%- elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""

BEGUN = "<|start|>assistant"
THOUGHT = "<|channel|>analysis<|message|>Hm, well.<|end|>"
ANSWERED = f"{THOUGHT}{BEGUN}<|channel|>final<|message|>Hello <world>."


def called(arguments: str = '{"city": "Oslo"}', name: str = "weather") -> str:
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"


def harmonist(reply: str = ANSWERED) -> LoadModel:
    return thinker(HARMONY, reply)


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "time")
]
