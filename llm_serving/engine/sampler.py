"""The reference sampler, in numpy. A compiled twin that keeps to this arithmetic is equal to it bit for bit.

All steps are IEEE operations in the type and order given, without fused multiply-add. Row by row:

1. Logits are float32; NaN becomes -inf, +inf becomes the largest float32.
2. Float32: bias, x = x + bias. Penalties, at each distinct id concerned: repetition r over prompt and output
   ids, x = x / r if x > 0 else x * r; then, over output ids with count c, x = x - (frequency * c + presence).
3. temperature == 0: the id of the greatest logit, the lowest of equals; so id 0 when all are -inf.
   Otherwise these steps:
4. top-k: the k greatest logits; of equals the lower ids. (Before the temperature, which keeps the order.)
5. z = (x - max x) / max(temperature, 1e-6), float32; weight w = exp32(z), see there; then widened to float64
   and rounded to the nearest multiple of 2**-32, ties to even. So sums of up to 2**21 weights are exact, in
   any order; and what is 2**33 times less likely than the best token, or less, has the weight 0.
6. top-p, float64: ids by (w descending, id ascending). Kept up to and including the first whose running sum
   is >= top_p * total.
7. min-p, float64: kept if w >= min_p * (greatest w).
8. typical-p (Meister et al. 2022), float64: a = -z; m = (sum of w * a, each rounded as weights are) / (sum of
   w), which makes |a - m| how far a token's surprise is from the entropy: the log of the sum is in both.
   Of the ids whose w is not 0, by (|a - m| ascending, id ascending), kept up to and including the first whose
   running sum of w is >= typical_p * total. A product is at most 1/e, so its sums are exact as well.
9. u = uniform(seed, position). Over the kept ids in ascending order with running sums s, float64:
   the first with s > u * s_last. There is one, because u <= 1 - 2**-53.

The log-probability of a logit x is x - max x - log(total), float64, with the total of all weights of step 5
at temperature 1, before step 2; at least `LEAST_LOGPROB`. Of equals the lower ids are the likelier ones.
"""

from __future__ import annotations

import math

import numpy as np

from llm_serving.engine.protocol import SamplingRow
from llm_serving.engine.request import SamplingParams, TokenLogprobs

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's own stand-in

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_LARGEST = np.finfo(np.float32).max
_ROUNDING = 2.0**20  # a float64 near it is a multiple of 2**-32
_STRIDE = 8192  # temporaries of this many floats stay in the cache and in malloc's arena


def _mix(z: int) -> int:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) that chooses the token at `position`: a multiple of 2**-53.

    mix(mix(seed + G) + (position + 1) * G) modulo 2**64, its upper 53 bits; G is SplitMix64's increment.
    The inner mix keeps seeds that differ by little, as those of `n` choices do, from sharing a stream.
    """
    state = _mix((seed + _GOLDEN) & _MASK)
    return (_mix((state + (position + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53


def exp32(z: np.ndarray) -> np.ndarray:
    """exp of float32 values <= 0, to 3e-7 relative, 0 below -87, exactly 1 at 0; the same on every machine.

    n = rint(z * log2 e), to even; r = (z - n * c1) - n * c2 with c1 + c2 = ln 2 and n * c1 exact;
    a polynomial of degree 6 in r by Horner's rule; times 2**n through the exponent bits.
    """
    f32 = np.float32
    clamped = np.maximum(z, f32(-87.0))
    n = np.rint(clamped * f32(1.44269504))
    r = (clamped - n * f32(0.693359375)) - n * f32(-2.12194440e-4)
    w: np.ndarray = r * f32(1 / 720) + f32(1 / 120)
    for coefficient in (1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        w *= r
        w += f32(coefficient)
    w *= ((n.astype(np.int32) + 127) << 23).view(f32)
    w[z < f32(-87.0)] = 0.0
    return w


class NumpySampler:
    """Chooses one token a row, by that row's logits, ids, parameters and position alone.

    Its scratch arrays make it a thing of one thread.
    """

    def __init__(self) -> None:
        self._weights = np.empty(0)
        self._sums = np.empty(0)

    def sample(self, logits: np.ndarray, rows: list[SamplingRow]) -> list[int]:
        if all(_is_plain_greedy(row.params) for row in rows):
            best: list[int] = logits.argmax(axis=1).tolist()
        else:
            best = [
                int(x.argmax()) if _is_plain_greedy(row.params) else -1
                for x, row in zip(logits, rows, strict=True)
            ]
        return [
            # argmax points at a NaN if there is one: such a row takes the careful way.
            token if token >= 0 and logits[i, token] == logits[i, token] else self._choose(logits[i], rows[i])
            for i, token in enumerate(best)
        ]

    def logprobs(self, logits: np.ndarray, token_ids: list[int], counts: list[int]) -> list[TokenLogprobs]:
        """See `Sampler.logprobs`."""
        return [self._logprobs(*row) for row in zip(logits, token_ids, counts, strict=True)]

    def _logprobs(self, x: np.ndarray, token_id: int, count: int) -> TokenLogprobs:
        np.nan_to_num(x, copy=False, nan=-np.inf, posinf=_LARGEST, neginf=-np.inf)
        top = _greatest(x, min(count, len(x))) if count else np.empty(0, np.int64)
        top = top[np.argsort(-x[top], kind="stable")]
        chosen, likeliest, greatest = float(x[token_id]), x[top].tolist(), float(x.max())
        total = float(self._sums_of(self._weights_of(x, 1.0))[-1]) if math.isfinite(greatest) else 1.0
        return from_logits(chosen, top.tolist(), likeliest, greatest, total)

    def _choose(self, x: np.ndarray, row: SamplingRow) -> int:
        params = row.params
        if not np.isfinite(x.max()):
            np.nan_to_num(x, copy=False, nan=-np.inf, posinf=_LARGEST, neginf=-np.inf)
        if params.logit_bias:
            _add_bias(x, params)
        if _has_penalties(params):
            _penalise(x, row)
        if params.temperature == 0 or not np.isfinite(x.max()):
            return int(x.argmax())
        ids = None
        if 0 < params.top_k < len(x):
            ids = _greatest(x, params.top_k)
            x = x[ids]
        w = self._weights_of(x, params.temperature)
        sums = self._sums_of(w)
        if params.top_p < 1.0:
            kept = _nucleus(w, params.top_p * sums[-1])
            ids, w, x = kept if ids is None else ids[kept], w[kept], x[kept]
            sums = self._sums_of(w)
        if params.min_p > 0.0:
            kept = np.flatnonzero(w >= params.min_p * w.max())
            ids, w, x = kept if ids is None else ids[kept], w[kept], x[kept]
            sums = self._sums_of(w)
        if params.typical_p < 1.0:
            kept = _typical(w, x, params.typical_p)
            ids, w = kept if ids is None else ids[kept], w[kept]
            sums = self._sums_of(w)
        index = int(np.searchsorted(sums, uniform(params.seed, row.position) * sums[-1], side="right"))
        return index if ids is None else int(ids[index])

    def _weights_of(self, x: np.ndarray, temperature: float) -> np.ndarray:
        """Step 5; `x` becomes z. Valid until the next call."""
        if len(self._weights) < len(x):
            self._weights = np.empty(len(x))
            self._sums = np.empty(len(x))
        w = self._weights[: len(x)]
        with np.errstate(over="ignore"):  # a distance beyond float32 is -inf, weight 0
            x -= x.max()
            x /= max(np.float32(temperature), np.float32(1e-6))
        for start in range(0, len(x), _STRIDE):
            part = w[start : start + _STRIDE]
            part[:] = exp32(x[start : start + _STRIDE])
            part += _ROUNDING
            part -= _ROUNDING
        return w

    def _sums_of(self, w: np.ndarray) -> np.ndarray:
        """Running sums. Valid until the next call."""
        sums: np.ndarray = np.cumsum(w, out=self._sums[: len(w)])
        return sums


def from_logits(
    chosen: float, top_ids: list[int], top: list[float], greatest: float, total: float
) -> TokenLogprobs:
    """Logits → log-probabilities; `total` is that of the weights, where `greatest` has 1."""

    def logprob(logit: float) -> float:
        return max(logit - greatest - log_total, LEAST_LOGPROB) if logit > -math.inf else LEAST_LOGPROB

    log_total = math.log(total)
    return TokenLogprobs(
        logprob(chosen), tuple((i, logprob(logit)) for i, logit in zip(top_ids, top, strict=True))
    )


def _is_plain_greedy(params: SamplingParams) -> bool:
    return params.temperature == 0 and not params.logit_bias and not _has_penalties(params)


def _has_penalties(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
    )


def _add_bias(x: np.ndarray, params: SamplingParams) -> None:
    ids, biases = zip(*params.logit_bias, strict=True)
    with np.errstate(over="ignore"):
        x[list(ids)] += np.array(biases, np.float32)
    np.nan_to_num(x, copy=False, nan=-np.inf, posinf=_LARGEST, neginf=-np.inf)


def _penalise(x: np.ndarray, row: SamplingRow) -> None:
    params = row.params
    with np.errstate(over="ignore", invalid="ignore"):
        if params.repetition_penalty != 1.0:
            ids = np.unique(np.asarray(row.prompt_ids + row.output_ids, np.int64))
            r = np.float32(params.repetition_penalty)
            values = x[ids]
            x[ids] = np.where(values > 0, values / r, values * r)
        if row.output_ids and (params.presence_penalty != 0.0 or params.frequency_penalty != 0.0):
            ids, counts = np.unique(np.asarray(row.output_ids, np.int64), return_counts=True)
            frequency, presence = np.float32(params.frequency_penalty), np.float32(params.presence_penalty)
            x[ids] -= frequency * counts.astype(np.float32) + presence
    np.nan_to_num(x, copy=False, nan=-np.inf, posinf=_LARGEST, neginf=-np.inf)


def _greatest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices, ascending, of the `count` greatest values; of equals the lower indices."""
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: count - len(above)]
    return np.sort(np.concatenate((above, equal)))


def _nucleus(w: np.ndarray, target: float) -> np.ndarray:
    """Indices, ascending, of the fewest greatest weights whose sum reaches `target`."""
    count = 256
    while True:
        # Sort no more than is needed: mostly a few hundred of the vocabulary's weights hold the mass.
        candidates = _greatest(w, count) if count < len(w) else np.arange(len(w))
        order = candidates[np.argsort(-w[candidates], kind="stable")]
        sums = np.cumsum(w[order])
        last = int(np.searchsorted(sums, target, side="left"))
        if last < len(order) or count >= len(w):
            return np.sort(order[: last + 1])
        count *= 8


def _typical(w: np.ndarray, z: np.ndarray, mass: float) -> np.ndarray:
    """Indices, ascending, of those nearest to the entropy whose weights reach this share: step 8."""
    possible = np.flatnonzero(w)
    w = w[possible]
    surprises = -z[possible].astype(np.float64)
    products = (w * surprises + _ROUNDING) - _ROUNDING
    order = np.argsort(np.abs(surprises - products.sum() / w.sum()), kind="stable")
    sums = np.cumsum(w[order])
    last = int(np.searchsorted(sums, mass * sums[-1], side="left"))
    kept: np.ndarray = np.sort(possible[order[: last + 1]])
    return kept
