"""Who is let in: what a prompt must be, and how many requests an engine holds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from llm_serving.engine.protocol import RunnerLimits
from llm_serving.engine.request import GivenRows, SamplingParams
from llm_serving.errors import ContextLengthExceeded, EngineDead, InvalidRequest, Overloaded


def check_prompt(prompt_ids: Sequence[int], vocab_size: int, max_context: int) -> None:
    """Raises: InvalidRequest (empty, or an id that is no token's); ContextLengthExceeded (no room)."""
    if not prompt_ids:
        raise InvalidRequest("The prompt is empty: it needs at least one token.", "prompt")
    if len(prompt_ids) >= max_context:
        raise ContextLengthExceeded(len(prompt_ids), 0, max_context)
    if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
        raise InvalidRequest(f"The prompt has a token id outside the model's 0 … {vocab_size - 1}.", "prompt")


def check_given(given: Sequence[GivenRows], num_tokens: int, limits: RunnerLimits) -> None:
    """Raises: InvalidRequest for rows that an engine of these limits does not take."""
    width, span = limits.given_width, limits.given_span
    if given and not width:
        raise InvalidRequest("This model is run in a way that takes no images.", "messages")
    end = 0
    for each in given:
        fits = (
            each.rows.ndim == 2 and each.rows.shape[1] == width and 0 < len(each.rows) <= (span or num_tokens)
        )
        fits = fits and (each.grid is not None) == limits.given_axes
        fits = fits and (each.grid is None or math.prod(each.grid) == len(each.rows))
        if not fits or each.rows.dtype != np.float32 or not end <= each.start < each.end <= num_tokens:
            raise InvalidRequest("The rows of an image do not fit the prompt or the model.", "messages")
        end = each.end


def check_adapter(adapter: int | None, count: int) -> None:
    """Raises: InvalidRequest for one that is not among the engine's."""
    if adapter is not None and not 0 <= adapter < count:
        raise InvalidRequest(f"There is no adapter {adapter}: the model is run with {count}.", "model")


def check_scores(sampling: SamplingParams, *, can_score: bool) -> None:
    """Raises: InvalidRequest where log-probabilities of a prompt are asked of an engine that has none."""
    if sampling.prompt_logprobs is not None and not can_score:
        raise InvalidRequest(
            "This model is run in a way that tells no log-probabilities of a prompt's tokens. "
            "Leave out 'echo' or 'logprobs'.",
            "echo",
        )


def check_room(
    request_id: str,
    accepted: Collection[str],
    max_requests: int,
    *,
    draining: bool,
    death: BaseException | None,
) -> None:
    """Whether one more request may join those that are `accepted` and have not ended.

    Raises: EngineDead, Overloaded, InvalidRequest (the id of one of them).
    """
    if death is not None:
        raise EngineDead(death)
    if draining:
        raise Overloaded("The model takes no new requests: it is being unloaded, or the server stops.")
    check_id(request_id, accepted)
    if len(accepted) >= max_requests:
        raise Overloaded(f"The server is busy with {len(accepted)} requests. Try again soon.")


def check_id(request_id: str, accepted: Collection[str]) -> None:
    """Raises: InvalidRequest, if this is the id of one of them."""
    if request_id in accepted:
        raise InvalidRequest(f"A request with the id '{request_id}' is running. Use another.", "request_id")
