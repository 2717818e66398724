"""Seed-OSS' calls: Qwen3-Coder's tags in others, with values that have no lines of their own.

<seed:tool_call>
<function=NAME>
<parameter=KEY>VALUE</parameter>
</function>
</seed:tool_call>
"""

from __future__ import annotations

from llm_serving.chat.notations.tag_calls import TagStyle

SEED = TagStyle("<seed:tool_call>", "</seed:tool_call>").notation()
