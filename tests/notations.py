"""Small chat templates of our own, each with the markup of a family, and what its models write."""

from __future__ import annotations

from typing import Any

from newer_notations import NEWER
from notation_family import JSON, NAMED, TOOL, Family, listed, template

from llm_serving.chat.notations.deepseek import DEEPSEEK, DEEPSEEK_FENCED
from llm_serving.chat.notations.functionary import FUNCTIONARY
from llm_serving.chat.notations.gemma4 import GEMMA4
from llm_serving.chat.notations.glm import GLM, GLM_COMPACT
from llm_serving.chat.notations.hermes import HERMES
from llm_serving.chat.notations.invoke import DEEPSEEK_DSML, DEEPSEEK_DSML_4, MINIMAX_M2
from llm_serving.chat.notations.json_lists import (
    APERTUS,
    APRIEL,
    COMMAND,
    GRANITE3,
    NEMOTRON_NANO,
)
from llm_serving.chat.notations.kimi import KIMI
from llm_serving.chat.notations.lfm2 import LFM2
from llm_serving.chat.notations.llama import LLAMA
from llm_serving.chat.notations.minicpm import MINICPM5
from llm_serving.chat.notations.mistral import MISTRAL, MISTRAL_IDS, MISTRAL_LIST
from llm_serving.chat.notations.notation import Notation
from llm_serving.chat.notations.seed import SEED
from llm_serving.chat.notations.tags import TAGS
from llm_serving.chat.tools import Tool


def dsml(notation: Notation) -> Family:
    """A mark in each tag, and what tells texts from JSON."""
    end, mark = notation.close, "｜DSML｜"
    call = (
        f'<{mark}invoke name="{{{{ f.name }}}}">\n{{% for k, v in f.arguments.items() %}}<{mark}parameter '
        'name="{{ k }}" string="{{ (v is string) | tojson }}">{{ v if v is string else v | tojson }}'
        f"</{mark}parameter>\n{{% endfor %}}</{mark}invoke>\n"
    )
    written = "".join(
        f'<{mark}parameter name="{key}" string="{kind}">{value}</{mark}parameter>\n'
        for key, kind, value in [("city", "true", "Rome"), ("days", "false", 2), ("exact", "false", "true")]
    )
    return Family(
        notation,
        template(TOOL, call, (f"\n\n{notation.open}\n", end)),
        f'{notation.open}\n<{mark}invoke name="weather">\n{written}</{mark}invoke>\n{end}',
    )


FAMILIES = {
    "hermes": Family(
        HERMES,
        template(TOOL, "<tool_call>\n{{ f | tojson }}\n</tool_call>"),
        f'<tool_call>\n{{"name": "weather", "arguments": {JSON}}}\n</tool_call>',
    ),
    "tags": Family(
        TAGS,
        template(
            TOOL,
            "\n<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments | items %}"
            "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}"
            "</function>\n</tool_call>",
        ),
        "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n"
        "</parameter>\n<parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>",
    ),
    "glm": Family(
        GLM,
        template(
            TOOL,
            "\n<tool_call>{{ f.name }}\n{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>\n"
            "<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>\n"
            "{% endfor %}</tool_call>",
        ),
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n<arg_key>exact</arg_key>\n<arg_value>true</arg_value>\n</tool_call>",
    ),
    "glm 4.7": Family(
        GLM_COMPACT,
        template(
            TOOL,
            "<tool_call>{{ f.name }}{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>"
            "<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>"
            "{% endfor %}</tool_call>",
        ),
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Rome</arg_value><arg_key>days</arg_key><arg_value>"
        "2</arg_value><arg_key>exact</arg_key><arg_value>true</arg_value></tool_call>",
    ),
    "lfm2": Family(
        LFM2,
        template(
            "<|tool_list_start|>" + TOOL + "<|tool_list_end|>",
            '{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ "\'" + v + "\'" if v is string else'
            " v | string }}{% if not loop.last %}, {% endif %}{% endfor %})",
            ("<|tool_call_start|>[", "]<|tool_call_end|>"),
            ", ",
        ),
        "<|tool_call_start|>[weather(city='Rome', days=2, exact=True)]<|tool_call_end|>",
    ),
    "gemma 4": Family(
        GEMMA4,
        '{% macro value(v) %}{% if v is string %}<|"|>{{ v }}<|"|>{% else %}{{ v | tojson }}{% endif %}'
        "{% endmacro %}"
        + template(
            "<|tool>{{ tool.function.name }}<tool|>",
            "<|tool_call>call:{{ f.name }}{{ '{' }}{% for k, v in f.arguments | dictsort %}"
            "{{ k }}:{{ value(v) }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}<tool_call|>",
        ),
        '<|tool_call>call:weather{city:<|"|>Rome<|"|>,days:2,exact:true}<tool_call|>',
    ),
    "mistral list": Family(
        MISTRAL_LIST,
        template(
            TOOL,
            "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 letters') }}{% endif %}"
            '{{ (f | tojson)[:-1] }}, "id": "{{ c.id }}"{{ \'}\' }}',
            ("[TOOL_CALLS][", "]"),
            ", ",
        ),
        f'[TOOL_CALLS][{{"name": "weather", "arguments": {JSON}, "id": "123456789"}}]',
    ),
    "mistral": Family(
        MISTRAL,
        template(TOOL, "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}"),
        f"[TOOL_CALLS]weather[ARGS]{JSON}",
    ),
    "mistral with ids": Family(
        MISTRAL_IDS,
        template(TOOL, "[TOOL_CALLS]{{ f.name }}[CALL_ID]{{ c.id }}[ARGS]{{ f.arguments | tojson }}"),
        f"[TOOL_CALLS]weather[CALL_ID]123456789[ARGS]{JSON}",
    ),
    "llama": Family(
        LLAMA,
        template(
            TOOL,
            "{% if m.tool_calls | length != 1 %}{{ raise_exception('single tool-calls only') }}{% endif %}"
            "{{ '{\"name\": \"' + f.name + '\", ' }}{{ '\"parameters\": ' }}"
            '{{ f.arguments | tojson }}{{ "}" }}{# ipython #}',
        ),
        f'{{"name": "weather", "parameters": {JSON}}}',
    ),
    "deepseek r1": Family(
        DEEPSEEK_FENCED,
        template(
            TOOL,
            "<｜tool▁call▁begin｜>{{ c.type }}<｜tool▁sep｜>{{ f.name }}\n```json\n{{ f.arguments }}\n```"
            "<｜tool▁call▁end｜>",
            ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
            "\n",
        ),
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{JSON}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek 3.1": Family(
        DEEPSEEK,
        template(
            TOOL,
            "<｜tool▁call▁begin｜>{{ f.name }}<｜tool▁sep｜>{{ f.arguments | tojson }}<｜tool▁call▁end｜>",
            ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        ),
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{JSON}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
    ),
    "command": listed(
        COMMAND,
        '\n    {"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", "parameters": '
        "{{ f.arguments | tojson }}{{ '}' }}",
        f'\n    {{"tool_call_id": "0", "tool_name": "weather", "parameters": {JSON}}}\n',
    ),
    "apertus": listed(
        APERTUS,
        """{{ '{"' + f.name + '": ' + f.arguments | tojson + '}' }}""",
        f'{{"weather": {JSON}}}',
    ),
    "granite 3": listed(GRANITE3, "{{ f | tojson }}", NAMED),
    "nemotron nano": listed(NEMOTRON_NANO, "{{ f | tojson }}", NAMED),
    "apriel": listed(APRIEL, "{{ f | tojson }}", NAMED),
    "seed": Family(
        SEED,
        template(
            TOOL,
            "\n<seed:tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments | items %}"
            "<parameter={{ k }}>{{ v if v is string else v | string }}</parameter>\n{% endfor %}</function>\n"
            "</seed:tool_call>",
        ),
        "<seed:tool_call>\n<function=weather>\n<parameter=city>Rome</parameter>\n<parameter=days>2"
        "</parameter>\n<parameter=exact>True</parameter>\n</function>\n</seed:tool_call>",
    ),
    "minimax m2": Family(
        MINIMAX_M2,
        template(
            TOOL,
            '<invoke name="{{ f.name }}">\n{% for k, v in f.arguments.items() %}<parameter name="{{ k }}">'
            "{{ v if v is string else v | tojson }}</parameter>\n{% endfor %}</invoke>\n",
            ("\n<minimax:tool_call>\n", "</minimax:tool_call>"),
        ),
        '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Rome</parameter>\n'
        '<parameter name="days">2</parameter>\n<parameter name="exact">true</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
    ),
    "deepseek 3.2": dsml(DEEPSEEK_DSML),
    "deepseek 4": dsml(DEEPSEEK_DSML_4),
    "kimi": Family(
        KIMI,
        template(
            TOOL,
            "<|tool_call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|tool_call_argument_begin|>"
            "{{ f.arguments if f.arguments is string else f.arguments | tojson }}<|tool_call_end|>",
            ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        ),
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:3<|tool_call_argument_begin|>"
        f"{JSON}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "minicpm5": Family(
        MINICPM5,
        template(
            TOOL,
            '<function name="{{ f.name }}">{% for k, v in f.arguments.items() %}<param name="{{ k }}">'
            "{{ '<![CDATA[' + v + ']]>' if v is string and '\n' in v else v }}</param>{% endfor %}"
            "</function>",
            between="\n",
        ),
        '<function name="weather"><param name="city"><![CDATA[Rome]]></param><param name="days">2</param>'
        '<param name="exact">True</param></function>',
    ),
    "functionary 3.1": Family(
        FUNCTIONARY,
        template(TOOL, "<function={{ f.name }}>{{ f.arguments | tojson }}</function>"),
        f"<function=weather>{JSON}</function>",
    ),
    **NEWER,
}

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": -99, "maximum": 9999},
        "exact": {"type": "boolean"},
        "ratio": {"type": "number", "minimum": -9, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
        "note": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
    },
    "required": ["city", "days", "exact"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 6}, "at": {"type": "null"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
TOOLS = {
    "weather": Tool("weather", "", PARAMETERS),
    "now": Tool("now", "", {"type": "object", "properties": {}, "additionalProperties": False}),
    "get.any_thing-1": Tool("get.any_thing-1", "", {"type": "object", "properties": {}}),
}
