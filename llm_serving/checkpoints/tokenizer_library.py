"""Objects of the `tokenizers` library as a `Vocabulary`, and its panics as errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from llm_serving.checkpoints.encoder_vocabulary import SpecialFrame
from llm_serving.errors import CheckpointError

_PROBES = ("a", "1", ".", "中", "é")
_EVERYTHING = "The quick-brown fox's 12.5 €, Grüße 中文 हिन्दी 🤖 \x07 \ufdd0"


@contextmanager
def no_panic(what: str) -> Iterator[None]:
    """Any failure of the library inside is a CheckpointError that begins with `what`.

    Damaged data makes its Rust code panic, which is a BaseException of a class that cannot be imported.
    """
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what}: {str(error)[:200]}.") from error


def encode_plain(path: str, backend: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids without special tokens. Raises: CheckpointError if the library fails on the tokenizer's data."""
    with no_panic(f"{path}: the tokenizer fails on a text"):
        # The batch call is the one that releases the GIL and uses all cores.
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def decode_plain(path: str, backend: Tokenizer, ids: list[int]) -> str:
    """Raises: CheckpointError if the library fails on the tokenizer's data."""
    with no_panic(f"{path}: the tokenizer fails on token ids"):
        return backend.decode(ids)


def try_out(path: str, backend: Tokenizer) -> None:
    """Much that can be wrong with a tokenizer shows with its first text. Raises: CheckpointError."""
    encode_plain(path, backend, [_EVERYTHING, ""])


def frame_of(path: str, backend: Tokenizer) -> SpecialFrame:
    """What the tokenizer's post-processor adds, read off an example. Raises: CheckpointError."""
    for probe in _PROBES:
        single, pair = backend.encode(probe), backend.encode(probe, probe)
        places = [i for i, sequence in enumerate(single.sequence_ids) if sequence is not None]
        firsts = [i for i, sequence in enumerate(pair.sequence_ids) if sequence == 0]
        seconds = [i for i, sequence in enumerate(pair.sequence_ids) if sequence == 1]
        if not (places and firsts and seconds):
            continue
        if places[-1] - places[0] >= len(places) or firsts[-1] > seconds[0]:
            break
        frame = SpecialFrame(
            before=tuple(single.ids[: places[0]]),
            after=tuple(single.ids[places[-1] + 1 :]),
            pair_before=tuple(pair.ids[: firsts[0]]),
            between=tuple(pair.ids[firsts[-1] + 1 : seconds[0]]),
            pair_after=tuple(pair.ids[seconds[-1] + 1 :]),
        )
        used = {*frame.before, *frame.after, *frame.pair_before, *frame.between, *frame.pair_after}
        if max(used, default=0) >= backend.get_vocab_size():
            raise CheckpointError(f"{path}: the post-processor adds a token outside the vocabulary.")
        return frame
    raise CheckpointError(f"{path}: the tokenizer's post-processor is of an unknown kind.")


def shut_out(backend: Tokenizer, special: list[str]) -> None:
    """Make sure that text cannot become one of these tokens."""
    backend.encode_special_tokens = True
    # A Unigram model finds special tokens by itself, as they stand in its table. No token reaches over the
    # end of a word, so their first character becomes one.
    known = sorted(token for token in special if len(token) > 1)
    if not isinstance(backend.model, models.Unigram) or not known:
        return
    branches = [
        f"(?<={re.escape(first)})(?={'|'.join(re.escape(token[1:]) for token in tokens)})"
        for first, tokens in groupby(known, key=lambda token: token[0])
    ]
    split = pre_tokenizers.Split(Regex("|".join(branches)), "isolated")
    before = backend.pre_tokenizer
    backend.pre_tokenizer = split if before is None else pre_tokenizers.Sequence([before, split])
