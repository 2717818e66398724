"""Families of 2019 to 2024, for the table of all families."""

from __future__ import annotations

from llm_serving.architectures import bloom, falcon, gpt2, gptj, opt

OLDER = {
    "bloom": bloom.describe,
    "codegen": gptj.describe_codegen,
    "falcon": falcon.describe,
    "gpt2": gpt2.describe,
    "gpt_bigcode": gpt2.describe_bigcode,
    "gpt_neo": opt.describe_neo,
    "gptj": gptj.describe,
    "mpt": bloom.describe_mpt,
    "opt": opt.describe,
    "starcoder": gpt2.describe_bigcode,  # as GGUF files call it
}
