"""The tokenizer of a Hugging Face directory: AutoTokenizer reads whatever it holds; the rest is ours."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from transformers import AutoTokenizer

from llm_serving.checkpoints.directory_tokenizer import DirectoryTokenizer, NamedTokens
from llm_serving.checkpoints.tokenizer_library import no_panic
from llm_serving.errors import CheckpointError


def read_tokenizer(directory: Path, eos_ids: Collection[int] = ()) -> DirectoryTokenizer:
    """`eos_ids` end an answer beside the tokenizer's own end. Raises: CheckpointError."""
    with no_panic(f"{directory}: the tokenizer cannot be read"):
        original = AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        backend = getattr(original, "backend_tokenizer", None)
        if backend is None:
            raise CheckpointError(
                f"{directory}: {type(original).__name__} is Python only; a tokenizer.json is needed."
            )
        bos, eos = original.bos_token_id, original.eos_token_id
        named = NamedTokens(
            bos=bos,
            eos=eos,
            unknown=original.unk_token_id,
            ends=frozenset(eos_ids) | ({eos} - {None}),
            all_ids=frozenset(original.all_special_ids),
            adds_bos=original("a").input_ids[:1] == [bos],
        )
        template = original.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return DirectoryTokenizer(json.loads(backend.to_str()), named, template or None)
