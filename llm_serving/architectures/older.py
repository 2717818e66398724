"""Families of 2019 to 2024, for the table of all families."""

from __future__ import annotations

from llm_serving.architectures import bloom, falcon, gpt2

OLDER = {
    "bloom": bloom.describe,
    "falcon": falcon.describe,
    "gpt2": gpt2.describe,
    "gpt_bigcode": gpt2.describe_bigcode,
    "mpt": bloom.describe_mpt,
    "starcoder": gpt2.describe_bigcode,  # as GGUF files call it
}
