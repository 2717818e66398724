"""Texts to the token ids that embedding and reranking models want, special tokens included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.encoder_vocabulary import EncoderVocabulary
from llm_serving.checkpoints.gguf_encoder import read_gguf_vocabulary
from llm_serving.checkpoints.pair_template import PairTemplate
from llm_serving.checkpoints.special_tokens import SpecialTokens
from llm_serving.checkpoints.tokenizer import valid_text
from llm_serving.checkpoints.tokenizer_files import read_tokenizer_files


class EncoderTokenizer:
    """Thread-safe; encoding releases the GIL. Never cuts and never pads.

    User text does not become special tokens: `[SEP]` or `<s>` in it are these characters. That is what
    `transformers` does with `split_special_tokens=True`; on all other text ids are equal to its own.
    Prompts from the model's own settings do, as they do in sentence-transformers.
    `max_tokens` is the length the model's files name, special tokens included, or None. With a `template`,
    pairs are read as it puts them together.
    """

    def __init__(self, vocabulary: EncoderVocabulary, template: PairTemplate | None = None) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._frame = vocabulary.frame
        self._special = SpecialTokens(vocabulary.prompt_ids)
        self.vocab_size = vocabulary.vocab_size
        self.special_ids = vocabulary.special_ids
        self.max_tokens = vocabulary.max_tokens

    def with_template(self, template: PairTemplate) -> EncoderTokenizer:
        """The same tokenizer, reading pairs by `template`."""
        return EncoderTokenizer(self._vocabulary, template)

    def single_token(self, text: str) -> int | None:
        """The id of a text that is one token, None of any other."""
        ids = self._plain([text])[0]
        return ids[0] if len(ids) == 1 else None

    def encode(self, text: str) -> list[int]:
        """Ids of one text with the model's special tokens; these alone for an empty one."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """`encode` of each, on all cores, with the model's own `prompt` in front: `prompt + text` is read as
        one text, but special tokens are recognised in the prompt only."""
        *parts, last = self._special.split(prompt)
        before, after = list(self._frame.before), list(self._frame.after)
        for ids, special in zip(self._plain(parts[::2]), parts[1::2], strict=True):
            before += [*ids, self._vocabulary.prompt_ids[special]]
        return [[*before, *ids, *after] for ids in self._plain([last + text for text in texts])]

    def encode_pair(self, first: str, second: str, max_tokens: int | None = None) -> tuple[list[int], int]:
        """(ids of both texts, place of the second's first token); see `encode_pairs`."""
        return self.encode_pairs(first, [second], max_tokens)[0]

    def encode_pairs(
        self, first: str, seconds: Sequence[str], max_tokens: int | None = None
    ) -> list[tuple[list[int], int]]:
        """One text paired with each of many, as a reranker reads query and documents.

        With `max_tokens`, a pair over it loses tokens at the end of the longer text, then of both: the
        `longest_first` of transformers; in a template, at the end of the document.
        Raises: ValueError if `max_tokens` leaves no room for text.
        """
        if self._template is not None:
            return [self._by_template(self._template, first, second, max_tokens) for second in seconds]
        frame = self._frame
        num_special = len(frame.pair_before) + len(frame.between) + len(frame.pair_after)
        if max_tokens is not None and max_tokens <= num_special:
            raise ValueError(f"{max_tokens} tokens leave no room between {num_special} special ones.")
        head, *tails = self._plain([first, *seconds])
        pairs = []
        for tail in tails:
            keep_head, keep_tail = len(head), len(tail)
            if max_tokens is not None:
                keep_head, keep_tail = _longest_first(keep_head, keep_tail, max_tokens - num_special)
            ids = [*frame.pair_before, *head[:keep_head], *frame.between]
            second_segment = len(ids)
            pairs.append(([*ids, *tail[:keep_tail], *frame.pair_after], second_segment))
        return pairs

    def _by_template(
        self, template: PairTemplate, query: str, document: str, max_tokens: int | None
    ) -> tuple[list[int], int]:
        """(ids of the whole prompt, their number: no token is the second text's alone)."""
        texts = {"query": self._special.guard(query), "document": self._special.guard(document)}
        pieces = [texts[part] if i % 2 else part for i, part in enumerate(template.parts)]
        parts = self._special.split("".join(pieces))
        until = 2 * template.parts[1::2].index("document") + 2
        at = len(self._special.split("".join(pieces[:until]))) - 1  # the part that ends with the document
        plain = iter(self._plain([part for part in parts[::2] if part]))
        ids = [
            [self._vocabulary.prompt_ids[part]] if i % 2 else next(plain) if part else []
            for i, part in enumerate(parts)
        ]
        if max_tokens is not None:
            room = max_tokens - sum(len(each) for each in ids) + len(ids[at])
            if room < 1:
                raise ValueError(f"{max_tokens} tokens leave no room in the model's own prompt.")
            ids[at] = ids[at][:room]
        joined = [token for each in ids for token in each]
        return joined, len(joined)

    def truncate(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """The beginning of what `encode` gave, with the closing special tokens where the cut is.

        Raises: ValueError if `max_tokens` leaves no room for text.
        """
        if len(token_ids) <= max_tokens:
            return token_ids
        before, after = self._frame.before, self._frame.after
        if max_tokens <= len(before) + len(after):
            raise ValueError(
                f"{max_tokens} tokens leave no room between {len(before) + len(after)} special ones."
            )
        if not after or tuple(token_ids[-len(after) :]) != after:
            return token_ids[:max_tokens]
        return [*token_ids[: max_tokens - len(after)], *after]

    def add_special(self, token_ids: Sequence[int]) -> list[int]:
        """What a client's token array stands for: the same input as the text it came from.

        OpenAI's clients send arrays without special tokens, others the output of the model's own tokenizer.
        So the opening and closing tokens are added where the array does not have them already.
        Raises: ValueError for an id outside the vocabulary.
        """
        self._check(token_ids)
        ids, before, after = tuple(token_ids), self._frame.before, self._frame.after
        opened = ids[: len(before)] == before
        closed = len(ids) >= len(after) and ids[len(ids) - len(after) :] == after
        return [*(() if opened else before), *ids, *(() if closed else after)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids without special tokens; not always the one they came from.

        Raises: ValueError for an id outside the vocabulary.
        """
        ids = list(ids)
        self._check(ids)
        return self._vocabulary.decode([i for i in ids if i not in self.special_ids])

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        prepared = [valid_text(text) for text in texts]
        if self._vocabulary.lower_case:
            prepared = [text.lower() for text in prepared]
        return self._vocabulary.encode(prepared) if prepared else []

    def _check(self, ids: Sequence[int]) -> None:
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise ValueError(f"The token id {wrong} is not in the vocabulary of {self.vocab_size}.")


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each to keep, at most `room` together."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    long = room - short
    if long < short:
        short = room // 2
        long = room - short
    return (short, long) if first <= second else (long, short)


def build_encoder_tokenizer(checkpoint: Checkpoint) -> EncoderTokenizer:
    """Build it from a GGUF's metadata or from the tokenizer files of a directory.

    Raises: CheckpointError, naming the file or key, if they are missing, damaged or of an unknown kind.
    """
    read = read_gguf_vocabulary if checkpoint.format == "gguf" else read_tokenizer_files
    return EncoderTokenizer(read(checkpoint))
