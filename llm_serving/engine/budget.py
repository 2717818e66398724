"""How many prompt tokens a step may carry while anyone decodes. Engine thread only; knows no clock.

The budget follows from what steps have cost so far, so the same observations give the same budgets.
"""

from __future__ import annotations

_COSTS = range(3)
_UNITS = tuple(tuple(float(i == j) for j in _COSTS) for i in _COSTS)
_FIRST_GUESS = (4e-3, 1e-4, 7e-4)  # a small model on two cores
_GUESS_ERROR = (5e-2, 1e-2, 1e-2)
_NOISE = 0.1  # of a step's time: what other processes on the cores do to it
_DRIFT = 0.02  # by which a cost changes from step to step: contexts grow, neighbours come and go


class StepCosts:
    """A step's seconds as `base + rows * logits + (rows + prompt_tokens) * token`, learnt while running.

    A Kalman filter over the three costs (Kalman 1960): it keeps apart what one decoding sequence, a batch of
    them and a prompt cost, also where hardly a step goes by without a prompt. There, many costs fit the same
    mixture of rows and tokens; that a row is a token and more, and no cost negative, leaves few of them. An
    observation's error is taken to be proportional to it: a step that was interrupted for long says little.
    """

    def __init__(self) -> None:
        self._costs = list(_FIRST_GUESS)
        self._covariance = [
            [error**2 * x for x in unit] for error, unit in zip(_GUESS_ERROR, _UNITS, strict=True)
        ]
        self._is_warm = False

    def observe(self, num_rows: int, num_prompt_tokens: int, seconds: float) -> None:
        """A step of `num_rows` decoded and `num_prompt_tokens` other tokens took `seconds`."""
        if not self._is_warm:  # the first step waits for the weights' pages
            self._is_warm = True
            return
        # The further a prompt is, the more its tokens cost; in steps that have one, that is what changes.
        drifting = (2,) if num_prompt_tokens else (0, 1)
        for i in drifting:
            if self._covariance[i][i] < _GUESS_ERROR[i] ** 2:
                self._covariance[i][i] += (_DRIFT * self._costs[i]) ** 2
        x = (1.0, float(num_rows), float(num_rows + num_prompt_tokens))
        self._learn(x, seconds, _NOISE * seconds + 1e-6)
        for i in _COSTS:
            if self._costs[i] < 0.0:
                self._learn(_UNITS[i], 0.0, 1e-5)

    def _learn(self, x: tuple[float, ...], seconds: float, error_s: float) -> None:
        """The costs times `x` are `seconds`, give or take `error_s`."""
        costs, covariance = self._costs, self._covariance
        px = [row[0] * x[0] + row[1] * x[1] + row[2] * x[2] for row in covariance]
        variance = px[0] * x[0] + px[1] * x[1] + px[2] * x[2] + error_s**2
        surprise = (seconds - costs[0] * x[0] - costs[1] * x[1] - costs[2] * x[2]) / variance
        for i in _COSTS:
            costs[i] += px[i] * surprise
            for j in _COSTS:
                covariance[i][j] -= px[i] * px[j] / variance

    def decode_s(self, num_rows: int) -> float:
        """Seconds of a step without prompt tokens."""
        base, logits, token = (max(cost, 0.0) for cost in self._costs)
        return base + (logits + token) * num_rows + 1e-6

    @property
    def prompt_token_s(self) -> float:
        return max(self._costs[2], 1e-6)

    @property
    def row_tokens(self) -> float:
        """How many tokens of a prompt cost as much as one whose logits are wanted; at least 1."""
        return 1.0 + max(self._costs[1], 0.0) / self.prompt_token_s


class PrefillBudget:
    """How long the others' tokens may wait for a prompt: relative to a step that only decodes.

    A prompt takes `PROMPT_SHARE` times the decoding's seconds, which bounds the gap between tokens by a
    multiple of the normal one. Where that makes a step longer than `step_s` it takes less, but a third of the
    step at least. Small pieces are little waste: the step reads all weights for the decoding anyhow.

    Where more sequences wait for long than decode, prompts get as much more, up to `step_s`. Without that a
    few keep many waiting, in pieces as small as the few are fast, and the batch that would serve all never
    forms.
    """

    PROMPT_SHARE = 1.5
    LEAST_SHARE = 0.5
    LEAST_TOKENS = 4  # as many rows as the matrix kernels take at once

    def __init__(self, step_s: float) -> None:
        self.costs = StepCosts()
        self._step_s = step_s

    def num_tokens(self, num_rows: int, num_waiting: int = 1) -> int:
        """The budget of a step in which `num_rows` sequences decode and `num_waiting`, which have waited for
        long already, could begin to if their prompts were read; at least `LEAST_TOKENS`.
        """
        prompt_s = self.prompt_s(num_rows, num_waiting)
        return max(self.LEAST_TOKENS, int(prompt_s / self.costs.prompt_token_s))

    def prompt_s(self, num_rows: int, num_waiting: int = 1) -> float:
        """Seconds of such a step that may go to reading."""
        decode_s = self.costs.decode_s(num_rows)
        share = self.PROMPT_SHARE * max(1.0, num_waiting / num_rows)
        wanted_s = min(share * decode_s, self._step_s - decode_s)
        return max(self.LEAST_SHARE * decode_s, wanted_s)
