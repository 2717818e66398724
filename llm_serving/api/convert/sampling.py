"""Request fields → what the services take."""

from __future__ import annotations

from typing import TypeVar

from llm_serving.api.convert.form import to_form
from llm_serving.api.schemas.sampling import SamplingFields
from llm_serving.backends.constraints import Form
from llm_serving.chat.tools import Calls
from llm_serving.config import Settings
from llm_serving.errors import InvalidRequest
from llm_serving.service.generation import GenerationOptions

T = TypeVar("T")
_ANY_SEED = -1  # in vLLM, llama.cpp and Ollama: another one each time


def to_options(
    body: SamplingFields,
    max_tokens: int | None,
    top_logprobs: int | None,
    fairness_key: str,
    calls: Calls | None = None,
) -> GenerationOptions:
    """null is as good as absent. What the endpoints call differently comes as arguments.

    `calls` is what calls of functions make of the answer. Raises: InvalidRequest as `to_form`, and for a
    `min_tokens` that is more than the most.
    """
    min_tokens = _given(body.min_tokens, 0)
    if max_tokens is not None and min_tokens > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' is more than the {max_tokens} that the answer may have.", "min_tokens"
        )
    form, form_param = to_form(body)
    if form is not None and calls is not None:
        name = form_param.split(".")[0]
        raise InvalidRequest(
            f"'{name}', and 'tools' that must be called or are strict, both bind the answer. Send one.",
            form_param,
        )
    binding: Form | Calls | None = form
    if calls is not None:
        binding, form_param = calls, "tools"
    return GenerationOptions(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=_given(body.top_p, 1.0),
        top_k=max(0, _given(body.top_k, 0)),
        min_p=_given(body.min_p, 0.0),
        typical_p=_given(body.typical_p, 1.0),
        presence_penalty=_given(body.presence_penalty, 0.0),
        frequency_penalty=_given(body.frequency_penalty, 0.0),
        repetition_penalty=_given(body.repetition_penalty, 1.0),
        seed=None if body.seed == _ANY_SEED else body.seed,
        stop=tuple(body.stop),
        n=_given(body.n, 1),
        ignore_eos=bool(body.ignore_eos),
        stop_ids=frozenset(body.stop_token_ids or ()),
        min_tokens=min_tokens,
        priority=_given(body.priority, 0),
        fairness_key=fairness_key,
        logit_bias=tuple(body.logit_bias.items()),
        top_logprobs=top_logprobs,
        form=binding,
        form_param=form_param,
    )


def check_together(
    body: SamplingFields, settings: Settings, num_prompts: int = 1, best_of: int | None = None
) -> None:
    """What only shows when fields are seen together, or beside the settings. Raises: InvalidRequest."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed together with stream: true.", "stream_options")
    n = _given(body.n, 1)
    num_each = _given(best_of, n)
    if num_each < n:
        raise InvalidRequest(f"'best_of' must be at least 'n', which is {n}.", "best_of")
    if num_each > n and body.stream:
        raise InvalidRequest(
            "'best_of' is not possible together with stream: true: which answers are the best shows at their "
            "end. Leave one out.",
            "best_of",
        )
    if num_each > settings.max_concurrency:
        name = "n" if num_each == n else "best_of"
        raise InvalidRequest(f"'{name}' must be at most {settings.max_concurrency} on this server.", name)
    room = settings.max_concurrency + settings.max_queue
    if num_each * num_prompts > room:
        raise InvalidRequest(
            f"'prompt' asks for {num_each * num_prompts} answers at once; this server takes {room}.", "prompt"
        )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
