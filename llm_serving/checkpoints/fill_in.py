"""Fill-in-the-middle: a text before and one behind, and the model writes what stands between.

Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022); the order is prefix,
suffix, middle.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.vocabulary import Vocabulary, token_id

_NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)
# In files of code, what comes behind the middle: nothing, or another file.
_ENDS = ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<fim_pad>", "<repo_name>", "<file_sep>", "▁<EOT>")
_KEYS = (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))  # the older name second
_END_KEYS = ("fim_pad", "fim_rep", "fim_sep")
# Before the name of a repository, and of each file (Hui et al., "Qwen2.5-Coder Technical Report", 2024).
_FILES = (("<|repo_name|>", "<|file_sep|>"), ("<repo_name>", "<file_sep>"), ("<reponame>", "<filename>"))


@dataclass(frozen=True, slots=True)
class FillIn:
    """The tokens before each of the three texts; `ends` end the middle beside the model's own ends."""

    prefix: int
    suffix: int
    middle: int
    ends: frozenset[int]
    bos_id: int | None
    files: tuple[int, int] | None = None  # before the name of a repository, and before that of a file

    def prompt(self, before: list[int], behind: list[int]) -> list[int]:
        """Token ids that ask for what stands between; a beginning of the sequence stays in front."""
        head = 1 if before[:1] == [self.bos_id] else 0
        return [*before[:head], self.prefix, *before[head:], self.suffix, *behind, self.middle]


def find_fill_in(vocabulary: Vocabulary, checkpoint: Checkpoint | None = None) -> FillIn | None:
    """By the metadata of a GGUF file, if given and it says so, else by the names of tokens.

    None: there are none. Raises: CheckpointError if the metadata names a token that is none.
    """
    known = {name for names in (*_NAMES, _ENDS, *_FILES) for name in names}
    ids = {token: i for i, token in enumerate(vocabulary.tokens) if token in known}
    ends = {ids[name] for name in _ENDS if name in ids}
    found = [[ids.get(name) for name in names] for names in _NAMES]
    files = next(((ids[repo], ids[file]) for repo, file in _FILES if repo in ids and file in ids), None)
    if checkpoint is not None:
        found.insert(0, [_named(checkpoint, vocabulary, *keys) for keys in _KEYS])
        ends |= {i for key in _END_KEYS if (i := _named(checkpoint, vocabulary, key)) is not None}
    for prefix, suffix, middle in found:
        if prefix is not None and suffix is not None and middle is not None:
            ends |= {prefix, suffix, middle}
            return FillIn(prefix, suffix, middle, frozenset(ends), vocabulary.bos_id, files)
    return None


def _named(checkpoint: Checkpoint, vocabulary: Vocabulary, *keys: str) -> int | None:
    ids = [token_id(checkpoint, f"tokenizer.ggml.{key}_token_id", len(vocabulary.tokens)) for key in keys]
    return next((i for i in ids if i is not None), None)
