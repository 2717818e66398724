"""What goes into an engine and what comes out of it: numbers and text, no HTTP, no JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from llm_serving.engine.constraint import TokenConstraint


class FinishReason(str, Enum):
    """Why a sequence ended; the values are the API's."""

    STOP = "stop"  # end-of-sequence token or a stop string
    LENGTH = "length"  # max_tokens or the end of the context
    ABORT = "abort"  # cancelled; nobody is listening any more


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose the next token. Validated at the door; engines trust it.

    `temperature == 0` is greedy. `top_k == 0`, `top_p == 1`, `min_p == 0`, `typical_p == 1` switch
    a filter off. Order: bias, penalties, temperature, top-k, top-p, min-p, typical-p. `logit_bias` is added
    to the logits of these ids. Penalties follow OpenAI's formula (presence and frequency over generated
    tokens); repetition is CTRL's (Keskar et al. 2019) over prompt and generated tokens. `top_logprobs` is how
    many of the likeliest tokens are told beside the chosen one; None asks for no log-probabilities at all.
    `thoughts` are what a text begins with (but for blanks; may be empty) and what that part ends with: up to
    there `stop` does not count.
    Before `min_tokens` have come no token of the request's `eos_ids` is chosen, unless nothing else may be.
    `prompt_logprobs` is the same for the prompt's own tokens; a prompt that is all that is asked about has
    `max_tokens == 0`.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0  # unsigned 64 bit; whoever builds the request draws one when the user gave none
    stop: tuple[str, ...] = ()
    thoughts: tuple[str, str] | None = None
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()  # no id twice
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities by the model's own logits, whatever was done to them to choose."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, log-probability), the likeliest first


@dataclass(frozen=True, slots=True, eq=False)
class GivenRows:
    """What stands for the embeddings of some prompt tokens, such as a picture's: they are placeholders.

    Equal digests mean equal rows, also for the prefix cache, which knows nothing else of them.
    """

    start: int  # the first token's place in the prompt
    rows: np.ndarray  # float32 [tokens, hidden]; nobody changes it
    digest: bytes  # 16 bytes
    # Rows and columns of places, if rotary positions go by them; the digest names them, too.
    grid: tuple[int, int] | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.rows)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to continue. A call with `n > 1` is n requests with seeds seed, seed+1, …"""

    request_id: str
    prompt_ids: list[int]
    sampling: SamplingParams
    eos_ids: frozenset[int] = frozenset()
    priority: int = 0  # lower numbers go first
    fairness_key: str = ""  # who asks, never a secret: requests of different keys take turns
    constraint: TokenConstraint | None = None  # of this request alone
    given: tuple[GivenRows, ...] = ()  # in ascending order, none over another
    adapter: int | None = None  # of those that the engine has, by its place in their list


@dataclass(slots=True)
class Timings:
    """Wall-clock facts of one request, `time.monotonic()` seconds; they travel with the last event."""

    arrived_s: float = 0.0
    scheduled_s: float = 0.0  # first time in a step
    first_token_s: float = 0.0
    finished_s: float = 0.0
    num_preemptions: int = 0


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """What one engine step produced for one request.

    `text` is safe to show: never half a character, never part of a stop string. It may be empty
    while text is held back. `finish_reason` is set exactly once, on the last event.
    """

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt, found in the prefix cache
    num_completion_tokens: int = 0  # so far, this event included
    timings: Timings = field(default_factory=Timings)
    stop_string: str | None = None  # that ended the sequence
    # Of its token, if asked for; of the one that ends the answer only together with the prompt's.
    logprobs: TokenLogprobs | None = None
    # Of the prompt's tokens behind the first, which nothing is known of; with the first event, if asked for.
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
