"""Families of 2019 to 2024, for the table of all families."""

from __future__ import annotations

OLDER = {
    "bloom": "bloom:describe",
    "chatglm": "glm4:describe_glm",  # as GGUF files call it
    "codegen": "gptj:describe_codegen",
    "falcon": "falcon:describe",
    "glm": "glm4:describe_glm",
    "gpt2": "gpt2:describe",
    "gpt_bigcode": "gpt2:describe_bigcode",
    "gpt_neo": "opt:describe_neo",
    "gptj": "gptj:describe",
    "mpt": "bloom:describe_mpt",
    "opt": "opt:describe",
    "orion": "layer_normed:describe_orion",
    "starcoder": "gpt2:describe_bigcode",  # as GGUF files call it
}
