"""Every way to cut a token into two tokens, for vocabularies that list no merges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64


def split_tokens(tokens: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(whole, left, right), int64 [num_splits]: token `whole[i]` is `left[i]` followed by `right[i]`.

    `tokens` are distinct. The order is that of `whole`, shorter left parts first.

    Parts are looked up by fingerprints, which come from sums over all characters, however long a part is
    (Karp & Rabin, 1987). They can be equal by chance: then, which nobody has seen, it is done plainly.
    """
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    fingerprints = _Fingerprints("".join(tokens))
    index = _Index(fingerprints.of(starts, ends))
    if index.is_ambiguous:
        return split_tokens_plainly(tokens)

    whole = np.repeat(np.arange(len(tokens)), lengths)
    cuts = np.arange(len(whole))
    is_inside = cuts > starts[whole]
    whole, cuts = whole[is_inside], cuts[is_inside]
    left = index.find(fingerprints.of(starts[whole], cuts))
    whole, cuts, left = whole[left >= 0], cuts[left >= 0], left[left >= 0]
    right = index.find(fingerprints.of(cuts, ends[whole]))
    whole, left, right = whole[right >= 0], left[right >= 0], right[right >= 0]
    parts = np.stack([left, right], axis=1).ravel()
    is_true = np.array_equal(lengths[left] + lengths[right], lengths[whole]) and np.array_equal(
        fingerprints.codes[_characters(starts[whole], lengths[whole])],
        fingerprints.codes[_characters(starts[parts], lengths[parts])],
    )
    return (whole, left, right) if is_true else split_tokens_plainly(tokens)


def _characters(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where the characters of these stretches are, one stretch after the other."""
    ends = np.cumsum(lengths)
    places: np.ndarray = np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())
    return places


def split_tokens_plainly(tokens: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by its definition, several times as slow."""
    ids = {token: i for i, token in enumerate(tokens)}
    splits = [
        (i, ids[token[:cut]], ids[token[cut:]])
        for i, token in enumerate(tokens)
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    whole, left, right = np.array(splits, np.int64).reshape(-1, 3).T
    return whole, left, right


class _Index:
    """Finds numbers of 64 bits among `keys`, by their first bits: a table has eight places for each key."""

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        bits = len(keys).bit_length() + 3
        self._shift = np.uint64(64 - bits)
        self._first = np.full(1 << bits, -1, np.int64)
        # Of several keys in one place the first one counts, which is the last one to be written.
        self._first[(self._keys >> self._shift)[::-1]] = np.arange(len(keys))[::-1]

    @property
    def is_ambiguous(self) -> bool:
        return bool((self._keys[1:] == self._keys[:-1]).any())

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Which of the keys each is, -1 for none; int64."""
        found: np.ndarray = self._first[wanted >> self._shift]
        open_ones = np.flatnonzero(found >= 0)
        while len(open_ones):  # the keys of a place follow each other, in order
            keys = self._keys[found[open_ones]]
            open_ones = open_ones[keys < wanted[open_ones]]
            found[open_ones] += 1
            found[open_ones[found[open_ones] == len(self._keys)]] = -1
            open_ones = open_ones[found[open_ones] >= 0]
        known = np.flatnonzero(found >= 0)
        is_equal = self._keys[found[known]] == wanted[known]
        found[known] = np.where(is_equal, self._order[found[known]], -1)
        return found


class _Fingerprints:
    """64 bits for any stretch of a text: equal for equal stretches, and different for nearly all others."""

    def __init__(self, text: str) -> None:
        self.codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        self._inverses = _powers(pow(_FACTOR, -1, 1 << 64), len(text))
        self._sums = np.zeros(len(text) + 1, np.uint64)
        terms = _stir(self.codes.astype(np.uint64) + np.uint64(1)) * _powers(_FACTOR, len(text))[:-1]
        np.cumsum(terms, out=self._sums[1:])

    def of(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """uint64, for each stretch of characters from `starts[i]` to before `ends[i]`."""
        return _stir((self._sums[ends] - self._sums[starts]) * self._inverses[starts])


def _powers(factor: int, count: int) -> np.ndarray:
    """factor⁰ … factorᶜᵒᵘⁿᵗ modulo 2^64."""
    powers = np.full(count + 1, factor, np.uint64)
    powers[0] = 1
    return np.cumprod(powers)


def _stir(values: np.ndarray) -> np.ndarray:
    """So that high bits, too, depend on all of them."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    stirred: np.ndarray = values ^ (values >> np.uint64(31))
    return stirred
