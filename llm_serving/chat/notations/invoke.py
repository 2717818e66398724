"""Functions that are invoked: MiniMax M2's calls, and DeepSeek's from V3.2 on, which tell texts from JSON.

<minimax:tool_call>
<invoke name="NAME">
<parameter name="KEY">VALUE</parameter>
</invoke>
</minimax:tool_call>

<｜DSML｜function_calls>
<｜DSML｜invoke name="NAME">
<｜DSML｜parameter name="KEY" string="true">TEXT</｜DSML｜parameter>
<｜DSML｜parameter name="KEY" string="false">JSON</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜function_calls>
"""

from __future__ import annotations

from llm_serving.chat.notations.notation import Notation
from llm_serving.chat.notations.tag_calls import TagStyle

_DSML = "｜DSML｜"  # a token, but no special one; templates put tags together of it


def _dsml(section: str) -> Notation:
    return TagStyle(
        f"<{_DSML}{section}>",
        f"</{_DSML}{section}>",
        function=f'<{_DSML}invoke name="',
        named='">',
        function_end=f"</{_DSML}invoke>",
        key=f'<{_DSML}parameter name="',
        value='" string="true">',
        json_value='" string="false">',
        value_end=f"</{_DSML}parameter>",
        is_section=True,
        marks=(),
    ).notation(signs=(_DSML, f"{section}>"))


MINIMAX_M2 = TagStyle(
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    function='<invoke name="',
    named='">',
    function_end="</invoke>",
    key='<parameter name="',
    value='">',
    is_section=True,
).notation()
DEEPSEEK_DSML = _dsml("function_calls")  # V3.2
DEEPSEEK_DSML_4 = _dsml("tool_calls")
