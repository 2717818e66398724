"""Text to token ids and back, from nothing but a checkpoint's metadata."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer as Backend

from llm_serving.checkpoints import byte_level, sentencepiece
from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.fill_in import FillIn, find_fill_in
from llm_serving.checkpoints.special_tokens import SpecialTokens
from llm_serving.checkpoints.vocabulary import Vocabulary, flag, problem, read_vocabulary


class Tokenizer:
    """Thread-safe. Encoding releases the GIL and takes time linear in the text, also without any space.

    `token_bytes[i]` is what token i adds to the text: of `special_ids` only those that an answer is told
    apart by (see `told_tokens.py`) add any. `eos_ids` end an answer.
    `prompt_ids` maps the strings that a rendered template may use for one token to it. `fill_in` has the
    tokens for filling in between two texts, if the model knows some.
    """

    chat_template: str | None = None  # where it is not the checkpoint's

    def __init__(
        self,
        vocabulary: Vocabulary,
        token_bytes: list[bytes],
        first: Backend,
        later: Backend,
        *,
        adds_bos: bool,
        strips_space: bool = False,
        fill_in: FillIn | None = None,
    ) -> None:
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.eos_ids = vocabulary.eos_ids
        self.special_ids = vocabulary.special_ids
        self.token_bytes = token_bytes
        self.adds_bos = adds_bos and vocabulary.bos_id is not None
        self._tokens = vocabulary.tokens
        self.prompt_ids = vocabulary.prompt_ids
        self._special = SpecialTokens(vocabulary.prompt_ids)
        self._first = first
        self._later = later
        self._strips_space = strips_space
        self.fill_in = fill_in
        self.bos_token = "" if vocabulary.bos_id is None else vocabulary.tokens[vocabulary.bos_id]
        self.eos_token = "" if vocabulary.eos_id is None else vocabulary.tokens[vocabulary.eos_id]

    def encode(self, text: str) -> list[int]:
        """Ids of user text: what looks like a special token is plain text, and no beginning is added."""
        return self.encode_batch([text])[0]

    def encode_behind(self, text: str) -> list[int]:
        """`encode` of text behind a special token: some models put a space before the first text only."""
        return _encode(self._later, [text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each, on all cores."""
        return _encode(self._first, texts)

    def encode_prompt(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Ids of a rendered template: special tokens are recognised, except in text that was guarded.

        With `add_bos`, the beginning-of-sequence token comes first if the model wants it and the text
        does not begin with it already.
        """
        parts = self._special.split(text)
        ids = self.encode(parts[0]) if parts[0] else []
        later = iter(_encode(self._later, [part for part in parts[2::2] if part]))
        for special, plain in zip(parts[1::2], parts[2::2], strict=True):
            ids.append(self.prompt_ids[special])
            if plain:
                ids.extend(next(later))
        if add_bos and self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def guard(self, text: str) -> str:
        """Mark special-token strings in user text, so that they stay plain text in a rendered template.

        Lossless: `encode_prompt(guard(text), add_bos=False) == encode(text)`. Templates may trim, cut and
        join what comes out; a template that looks for such a string in user text does not find it.
        """
        return self._special.guard(text)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of these ids; bytes that are no UTF-8 become U+FFFD.

        Raises: IndexError for an id outside the vocabulary.
        """
        pieces = [self._bytes_of(i, skip_special) for i in ids]
        text = b"".join(pieces)
        if self._strips_space and text.startswith(b" "):
            text = text[1:]
        return text.decode("utf-8", "replace")

    def piece(self, token_id: int) -> bytes:
        """What a token is called: its bytes, or a special token's name; b"" for ids beyond the vocabulary."""
        return self._bytes_of(token_id, skip_special=False) if token_id < self.vocab_size else b""

    def _bytes_of(self, token_id: int, skip_special: bool) -> bytes:
        if token_id < 0:
            raise IndexError(f"The token id {token_id} is negative.")
        if not skip_special and token_id in self.special_ids:
            return self._tokens[token_id].encode()
        return self.token_bytes[token_id]


def _encode(backend: Backend, texts: list[str]) -> list[list[int]]:
    # The batch call is the one that releases the GIL and computes no offsets.
    encodings = backend.encode_batch_fast([valid_text(text) for text in texts], add_special_tokens=False)
    return [encoding.ids if text else [] for text, encoding in zip(texts, encodings, strict=True)]


def valid_text(text: str) -> str:
    """Unpaired surrogates are no text; they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def build_gguf_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Build the tokenizer a GGUF file describes.

    Raises: CheckpointError, naming the metadata key, if the vocabulary is damaged or of an unknown kind.
    """
    vocabulary = read_vocabulary(checkpoint)
    fill_in = find_fill_in(vocabulary, checkpoint)
    key = "tokenizer.ggml.model"
    model = str(checkpoint.metadata.get(key))  # which may be anything, an array too
    is_spaced = str(checkpoint.metadata.get("tokenizer.ggml.pre")) == sentencepiece.SPACED
    if model == "gpt2" and not is_spaced:
        backend = byte_level.build_byte_level(checkpoint, vocabulary)
        default_bos = byte_level.pre_tokenizer_of(checkpoint).add_bos
        return Tokenizer(
            vocabulary,
            byte_level.bytes_of(vocabulary),
            backend,
            backend,
            adds_bos=flag(checkpoint, "tokenizer.ggml.add_bos_token", default_bos),
            fill_in=fill_in,
        )
    if model in ("gpt2", "llama", "gemma4"):
        vocabulary = sentencepiece.with_bytes(vocabulary) if model == "gpt2" else vocabulary
        first, later = sentencepiece.build_sentencepiece(checkpoint, vocabulary)
        return Tokenizer(
            vocabulary,
            sentencepiece.bytes_of(checkpoint, vocabulary),
            first,
            later,
            adds_bos=flag(checkpoint, "tokenizer.ggml.add_bos_token", model != "gpt2"),
            strips_space=sentencepiece.adds_space_prefix(checkpoint),
            fill_in=fill_in,
        )
    raise problem(checkpoint, key, f"is {model[:40]!r}; the known ones are gpt2, llama and gemma4")
