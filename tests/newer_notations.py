"""As `notations.py`: families whose templates put marks together, or want more than messages and tools."""

from __future__ import annotations

from notation_family import JSON, NAMED, TOOL, Family, template

from llm_serving.chat.notations.functionary import FUNCTIONARY_FOR
from llm_serving.chat.notations.gigachat import GIGACHAT, GIGACHAT_ROLE
from llm_serving.chat.notations.hunyuan import HUNYUAN3
from llm_serving.chat.notations.json_lists import COMMAND_R, FIREFUNCTION, MINIMAX_M1
from llm_serving.chat.notations.kimi3 import KIMI3
from llm_serving.chat.notations.minimax3 import MINIMAX_M3
from llm_serving.chat.notations.muse import MUSE
from llm_serving.chat.notations.solar import SOLAR_OPEN

NS = "]<]minimax[>["
NEWER = {
    "gigachat": Family(
        GIGACHAT,
        template(TOOL, "{% if loop.first %}<|function_call|>{{ f | tojson }}{% endif %}"),
        f"<|function_call|>{NAMED}",
    ),
    "gigachat 3.0": Family(
        GIGACHAT_ROLE,
        template(
            TOOL,
            "{% if loop.first %}<|message_sep|>\n\n{{ 'function call' }}<|role_sep|>\n"
            "{{ f | tojson }}{% endif %}",
        ),
        f"<|message_sep|>\n\nfunction call<|role_sep|>\n{NAMED}",
    ),
    "command r": Family(
        COMMAND_R,
        template(
            TOOL,
            '{ "tool_name": "{{ f.name }}", "parameters": {{ f.arguments | tojson(indent=4) }} {{ "}" }}',
            ("{{ '\\nAction:\\n```json\\n[\\n' }}", "\n]```\n"),
            ",\n",
        ),
        'Action: ```json\n[\n    {\n        "tool_name": "weather",\n'
        f'        "parameters": {JSON}\n    }}\n]\n```',
    ),
    "minimax m1": Family(
        MINIMAX_M1,
        "{# <beginning_of_sentence> #}"
        + template(TOOL, "{{ f | tojson }}\n", ("{{ '<tool_calls>\\n' }}", "</tool_calls>")),
        f"<tool_calls>\n{NAMED}\n</tool_calls>",
    ),
    "firefunction": Family(
        FIREFUNCTION,
        "{{ 'Now is ' + datetime + functions }}"
        + template("", "{{ f | tojson }}", (" functools[", "]"), ", "),
        f" functools[{NAMED}]",
    ),
    "hunyuan 3": Family(
        HUNYUAN3,
        "{% set end = ':opensource' %}{% set begin = '<tool_calls{}>'.format(end) %}"
        "{% set sep = '<tool_sep{}>'.format(end) %}"
        + template(
            TOOL,
            "<tool_call{{ end }}>{{ f.name ~ sep }}\n{% for k, v in f.arguments.items() %}<arg_key{{ end }}>"
            "{{ k }}</arg_key{{ end }}>\n<arg_value{{ end }}>{{ v if v is string else v | tojson }}"
            "</arg_value{{ end }}>\n{% endfor %}</tool_call{{ end }}>\n",
            ("{{ begin }}\n", "</tool_calls{{ end }}>"),
        ),
        "<tool_calls:opensource>\n<tool_call:opensource>weather<tool_sep:opensource>\n"
        + "".join(
            f"<arg_key:opensource>{key}</arg_key:opensource>\n"
            f"<arg_value:opensource>{value}</arg_value:opensource>\n"
            for key, value in [("city", "Rome"), ("days", 2), ("exact", "true")]
        )
        + "</tool_call:opensource>\n</tool_calls:opensource>",
    ),
    "minimax m3": Family(
        MINIMAX_M3,
        "{% set ns = ']<]minimax[>[' %}{% set toolcall_begin_token = ns ~ '<tool_call>' %}"
        + template(
            TOOL,
            '{{ ns }}<invoke name="{{ f.name }}">{% for k, v in f.arguments.items() %}{{ ns }}<{{ k }}>'
            "{{ v if v is string else v | tojson }}{{ ns }}</{{ k }}>{% endfor %}{{ ns }}</invoke>\n",
            ("{{ toolcall_begin_token }}\n", "{{ ns }}</tool_call>"),
        ),
        f'{NS}<tool_call>\n{NS}<invoke name="weather">{NS}<city>Rome{NS}</city>{NS}<days>2{NS}</days>'
        f"{NS}<exact>true{NS}</exact>{NS}</invoke>\n{NS}</tool_call>",
    ),
    "functionary 3.2": Family(
        FUNCTIONARY_FOR,
        "{{ 'Write >>>${recipient}' }}" + template(TOOL, ">>>{{ f.name }}\n{{ f.arguments }}"),
        f">>>weather\n{JSON}",
        "all\n{}",
        "all\n{}",
    ),
    "solar open": Family(
        SOLAR_OPEN,
        "{# <|begin|>assistant<|think|> <|end|> #}"
        + template(
            TOOL,
            "<|tool_call:begin|>{{ c.id }}<|tool_call:name|>{{ f.name }}<|tool_call:args|>"
            "{{ f.arguments | tojson }}<|tool_call:end|>",
            ("<|tool_calls|>", "<|calls|>"),
        ),
        "<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>weather<|tool_call:args|>"
        f"{JSON}<|tool_call:end|><|calls|>",
        "<|content|>{}<|end|>",
        "<|content|>{}<|end|><|begin|>assistant",
    ),
    "kimi 3": Family(
        KIMI3,
        "{% macro open_tag(tag) %}<|open|>{{ tag }}<|sep|>{% endmacro %}{# open_tag('think') #}"
        + template(
            TOOL,
            """{{ open_tag('call' ~ ' tool="' ~ f.name ~ '" index="' ~ loop.index ~ '"') }}"""
            "{% for k, v in f.arguments.items() %}{% set kind = 'string' if v is string else 'number' %}"
            """{{ open_tag('argument key="' ~ k ~ '" type="' ~ kind ~ '"') }}"""
            "{{ v if v is string else v | tojson }}<|close|>argument<|sep|>{% endfor %}<|close|>call<|sep|>",
            ("{{ open_tag('tools') }}", "<|close|>tools<|sep|>"),
        ),
        '<|open|>tools<|sep|><|open|>call tool="weather" index="1"<|sep|>'
        + "".join(
            f'<|open|>argument key="{key}" type="{kind}"<|sep|>{value}<|close|>argument<|sep|>'
            for key, kind, value in [
                ("city", "string", "Rome"),
                ("days", "number", 2),
                ("exact", "boolean", "true"),
            ]
        )
        + "<|close|>call<|sep|><|close|>tools<|sep|>",
        *["<|close|>think<|sep|><|open|>response<|sep|>{}<|close|>response<|sep|>"] * 2,
    ),
    "muse": Family(
        MUSE,
        "{# <|start|>assistant to=self<|message|> <|eom|> #}"
        + template(
            TOOL,
            "<|start|>assistant to={{ f.name }}<|message|><atem:function_calls>\n"
            '<atem:invoke name="{{ f.name }}">\n{% for k, v in f.arguments.items() %}'
            '<atem:parameter name="{{ k }}">{{ v if v is string else v | tojson }}</atem:parameter>\n'
            "{% endfor %}</atem:invoke>\n</atem:function_calls>",
        ),
        '<|start|>assistant to=weather<|message|><atem:function_calls>\n<atem:invoke name="weather">\n'
        '<atem:parameter name="city">Rome</atem:parameter>\n<atem:parameter name="days">2'
        '</atem:parameter>\n<atem:parameter name="exact">true</atem:parameter>\n</atem:invoke>\n'
        "</atem:function_calls>",
        " to=user<|message|>{}",
        " to=user<|message|>{}<|eom|>",
    ),
}
