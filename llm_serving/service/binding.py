"""What an answer must look like, and how long it may be thought about → constraints on its tokens."""

from __future__ import annotations

import asyncio

from llm_serving.backends.constraints import Form, Grammar
from llm_serving.chat import harmony
from llm_serving.chat.reasoning import Reasoning
from llm_serving.chat.tools import Calls
from llm_serving.engine.channels import Channel, ChannelConstraint, ChannelIds
from llm_serving.engine.constraint import TokenConstraint
from llm_serving.engine.reasoning import ReasoningConstraint
from llm_serving.errors import InvalidRequest, UnsupportedParameter
from llm_serving.service.model import ChatModel

_UNBOUND = (
    "The engine of this model cannot bind answers. Leave it out, or serve the model with another engine."
)
_WHOLE = (
    "The engine of this model binds whole answers only, and this one begins with thoughts. Send "
    "reasoning_effort: none where the model can do without, or serve it with another engine."
)


async def bind(
    model: ChatModel,
    count: int,
    form: Form | Calls | None,
    form_param: str,
    reasoning: Reasoning,
    budget: int | None,
) -> tuple[list[TokenConstraint | None], Reasoning]:
    """What binds each of `count` answers, and what they begin with then.

    Thoughts are free; where there are no tokens around them, or the engine takes forms only, an answer that
    is bound has none.
    Raises: ConstraintError, which names `form_param`; InvalidRequest for a `budget` that cannot be kept;
    UnsupportedParameter where the engine binds nothing.
    """
    if not model.engine.takes_constraints:
        return await _bind_whole(model, count, form, form_param, reasoning, budget)
    is_thinking = reasoning is not Reasoning.NONE
    channels = model.channel_ids() if is_thinking else None
    found = await _build(model, count, form, form_param, are_on_channel=channels is not None)
    if not is_thinking or (form is None and budget is None):
        return found, reasoning
    if channels is not None:
        return [_on_channels(model, answer, channels, form, budget) for answer in found], reasoning
    tags = model.reasoning_ids()
    if tags is None:
        if budget is not None:
            raise InvalidRequest(
                f"'thinking_token_budget' cannot be kept: the thoughts of '{model.name}' end with no token "
                "of their own. Leave it out.",
                "thinking_token_budget",
            )
        has_frames = model.thoughts is not None and model.thoughts.frames is not None
        return found, reasoning if has_frames and isinstance(form, Calls) else Reasoning.NONE
    bound: list[TokenConstraint | None] = [
        ReasoningConstraint(
            answer,
            model.engine.vocab_size,
            open_id=tags[0],
            close_id=tags[1],
            eos_ids=model.tokenizer.eos_ids,
            token_bytes=model.tokenizer.token_bytes,
            is_open=reasoning is Reasoning.IS_OPEN,
            budget=budget,
        )
        for answer in found
    ]
    return bound, reasoning


async def _bind_whole(
    model: ChatModel,
    count: int,
    form: Form | Calls | None,
    form_param: str,
    reasoning: Reasoning,
    budget: int | None,
) -> tuple[list[TokenConstraint | None], Reasoning]:
    """As `bind`, for engines that take a form from the first token on, or nothing."""
    if form is not None and not model.engine.takes_forms:
        raise UnsupportedParameter(form_param, _UNBOUND)
    if budget is not None and reasoning is not Reasoning.NONE:
        raise UnsupportedParameter("thinking_token_budget", _UNBOUND)
    if form is not None and reasoning is Reasoning.IS_OPEN:
        raise UnsupportedParameter(form_param, _WHOLE)
    found = await _build(model, count, form, form_param, are_on_channel=False)
    leaves_text_free = form is None or (isinstance(form, Calls) and not form.is_required)
    return found, reasoning if leaves_text_free else Reasoning.NONE


async def _build(
    model: ChatModel, count: int, form: Form | Calls | None, form_param: str, *, are_on_channel: bool
) -> list[TokenConstraint | None]:
    if form is None:
        return [None] * count
    if isinstance(form, Calls):
        form = Grammar(_calls_grammar(model, form, are_on_channel=are_on_channel))
    return list(await asyncio.to_thread(model.constraints.build, form, count, form_param))


def _calls_grammar(model: ChatModel, calls: Calls, *, are_on_channel: bool) -> str:
    """Calls in the notation of the model. Raises: ConstraintError."""
    if are_on_channel:
        return harmony.calls_grammar(calls.tools)
    return model.teaching.notation.grammar(calls, model.call_marks())


def _on_channels(
    model: ChatModel,
    answer: TokenConstraint | None,
    ids: ChannelIds,
    form: Form | Calls | None,
    budget: int | None,
) -> ChannelConstraint:
    bound = Channel.CALL if isinstance(form, Calls) else Channel.FINAL
    return ChannelConstraint(
        answer,
        model.engine.vocab_size,
        ids,
        bound=None if form is None else bound,
        is_required=form.is_required if isinstance(form, Calls) else form is not None,
        eos_ids=model.tokenizer.eos_ids,
        budget=budget,
    )
