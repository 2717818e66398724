"""Fields that the API knows and this server does not implement: the values that change nothing are taken.

`docs/compatibility.md` holds the same table for readers; a test compares the two with what the server does.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from llm_serving.errors import InvalidRequest, UnsupportedParameter

Neutral = dict[str, tuple[Any, ...]]

# null is neutral everywhere.
SHARED: Neutral = {
    "metadata": ({},),
    "prediction": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
# Of vLLM, SGLang and llama.cpp, for prompts and answers alike.
_OTHERS: Neutral = {
    "allowed_token_ids": (),
    "bad_words": ([],),
    "cache_prompt": (True, False),  # prompts are always kept, and change no answer
    "dry_multiplier": (0,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": (),
    "min_new_tokens": (0,),
    "mirostat": (0,),
    "n_probs": (0,),
    "prompt_logprobs": (),
    "repeat_penalty": (1,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),  # special tokens are not shown
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "xtc_probability": (0,),
}
CHAT: Neutral = {
    **SHARED,
    **_OTHERS,
    "add_special_tokens": (False,),
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "modalities": (["text"],),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
RESPONSES: Neutral = {
    "conversation": (),
    "max_tokens": (),
    "max_tool_calls": (),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "prompt": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
}
COMPLETION: Neutral = {
    **SHARED,
    **_OTHERS,
    "add_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "parallel_tool_calls": (True, False),  # no tools, no calls
    "reasoning_effort": ("none",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
LLAMA_CPP: Neutral = {
    "dry_multiplier": (0,),
    "lora": ([],),
    "mirostat": (0,),
    "n": (1,),
    "n_probs": (0,),
    "repeat_penalty": (1,),
    "return_tokens": (False,),
    "xtc_probability": (0,),
}
EMBEDDING: Neutral = {"priority": (0,)}
MESSAGES: Neutral = {
    "container": (),
    "context_management": (
        {},
        {"edits": []},
        {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    ),
    "mcp_servers": ([],),
    "output_config.task_budget": (),
    "output_format": (),
    "priority": (0,),
    "service_tier": ("auto", "standard_only"),
}
_OLLAMA: Neutral = {
    "options.embedding_only": (False,),
    "options.mirostat": (0,),
    "options.penalize_newline": (True,),
    "options.repeat_last_n": (-1,),
    "options.tfs_z": (1,),
    "options.vocab_only": (False,),
    "priority": (0,),
}
OLLAMA_CHAT: Neutral = {
    **_OLLAMA,
    "shift": (False,),
}
OLLAMA_GENERATE: Neutral = {
    **OLLAMA_CHAT,
    "truncate": (False,),
    "context": ([],),
    "template": ("",),
}
OLLAMA_EMBED: Neutral = _OLLAMA
OLLAMA_SHOW: Neutral = {
    "options": ({},),
    "priority": (0,),
    "system": ("",),
    "template": ("",),
    "verbose": (False,),
}
OLLAMA_PULL: Neutral = {"priority": (0,)}
RERANK: Neutral = {
    "max_chunks_per_doc": (),
    "max_tokens_per_doc": (),
    "priority": (0,),
    "rank_fields": (["text"],),
    "truncation_direction": ("Right", "right"),
}
SCORE: Neutral = {"priority": (0,)}
CLASSIFY: Neutral = {
    "activation": (True,),
    "add_special_tokens": (True,),
    "messages": (),
    "priority": (0,),
    "softmax": (True,),
}
PREDICT: Neutral = {"priority": (0,), "truncation_direction": ("Right", "right")}
# Ours have length 1, and texts are cut at their end.
EMBED: Neutral = {"normalize": (True,), "priority": (0,), "truncation_direction": ("Right", "right")}
SIMILARITY: Neutral = {"parameters.truncation_direction": ("Right", "right"), "priority": (0,)}
TOKENS: Neutral = {"priority": (0,)}

_MAX_LISTED = 16
_MAX_NAME = 64


def ignored_fields(unknown: dict[str, Any], neutral: Neutral, *, strict: bool) -> dict[str, str]:
    """The response headers that list what is ignored of `unknown`; none if nothing is.

    Raises: UnsupportedParameter (known, and its value would change something); InvalidRequest (unknown, and
    parameters are strict).
    """
    ignored = []
    for name, value in unknown.items():
        if name in neutral:
            _check(name, value, neutral[name])
        elif strict:
            raise InvalidRequest(f"There is no parameter '{name[:_MAX_NAME]}'.", name[:_MAX_NAME])
        else:
            ignored.append(quote(name[:_MAX_NAME], safe="._-"))
    if not ignored:
        return {}
    more = [f"and-{len(ignored) - _MAX_LISTED}-more"] if len(ignored) > _MAX_LISTED else []
    return {"x-ignored-parameters": ", ".join(ignored[:_MAX_LISTED] + more)}


def _check(name: str, value: Any, neutral: tuple[Any, ...]) -> None:
    if value is None or any(_is_same(value, other) for other in neutral):
        return
    accepted = ", ".join(orjson.dumps(other).decode() for other in neutral)
    raise UnsupportedParameter(name, f"Leave it out, or send {accepted}." if accepted else "Leave it out.")


def _is_same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)
