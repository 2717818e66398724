"""Prompts of rerankers that are language models: the model's own text around a query and a document."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.errors import CheckpointError

# The format of Qwen3-Reranker's model card (Zhang et al. 2025).
_QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN3 = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: ",
    "\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
_PLACES = re.compile(r"\{(query|document)\}")


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The model's own text and, at odd places, `query` or `document`. Special tokens in its text are such."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, source: str, where: str, places: re.Pattern[str] = _PLACES) -> PairTemplate:
        """`places` finds query and document, by name, in `source`.

        Raises: CheckpointError that begins with `where` unless both are there, the document once.
        """
        parts = tuple(places.split(source))
        if "query" not in parts[1::2] or parts[1::2].count("document") != 1:
            raise CheckpointError(f"{where} must have a place for the query and one for the document.")
        return cls(parts)


def qwen3_template(instruction: str | None = None) -> PairTemplate:
    """Qwen3-Reranker's own, with the instruction it uses for web searches unless there is another."""
    head, tail = _QWEN3
    parts = _PLACES.split(tail)
    return PairTemplate((head + (instruction or _QWEN3_INSTRUCTION) + parts[0], *parts[1:]))


def read_gguf_pair_template(checkpoint: Checkpoint) -> PairTemplate | None:
    """The chat template called "rerank", where llama.cpp's converter writes it: no Jinja, but two places.

    Raises: CheckpointError if it is damaged.
    """
    key = "tokenizer.chat_template.rerank"
    source = checkpoint.metadata.get(key)
    if source is None:
        return None
    if not isinstance(source, str):
        raise CheckpointError(f"{checkpoint.path}: '{key}' is not a text.")
    return PairTemplate.parse(source, f"{checkpoint.path}: '{key}'")
