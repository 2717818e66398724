"""Running sequences of one request: submitted together, merged into one stream, aborted together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from llm_serving.backends.constraints import Form
from llm_serving.chat.reasoning import Reasoning, ThoughtFormat, thoughts_around
from llm_serving.chat.tools import Calls
from llm_serving.engine.protocol import TokenStream
from llm_serving.engine.request import FinishReason, GenerateRequest, GivenRows, SamplingParams, TokenEvent
from llm_serving.errors import (
    ContextLengthExceeded,
    EngineDead,
    InvalidRequest,
    RequestCancelled,
    ServingError,
)
from llm_serving.service.adapters import NamedAdapter
from llm_serving.service.binding import bind
from llm_serving.service.echo import Echo
from llm_serving.service.endings import endings_of
from llm_serving.service.model import ChatModel
from llm_serving.service.slot import ModelSlot

COLDEST = 1e-4  # below, logits divided by it leave float32; the choice is the greedy one long before

Batch = list[tuple[int, TokenEvent]]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What a request asks for; None means that it does not say."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None  # any 64-bit number, signed or not
    stop: tuple[str, ...] = ()
    n: int = 1
    ignore_eos: bool = False
    priority: int = 0  # lower goes first
    fairness_key: str = ""  # of whoever asks; see `GenerateRequest`
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None  # see `SamplingParams`
    prompt_logprobs: int | None = None  # see there
    form: Form | Calls | None = None  # what the answer must look like
    form_param: str = ""  # the field that says so
    thinking_budget: int | None = None  # tokens
    ends: frozenset[int] = frozenset()  # tokens that are as good as the model's own ends
    stop_ids: frozenset[int] = frozenset()  # tokens that end an answer in any case
    min_tokens: int = 0  # before any of these may come


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What holds where a request does not say."""

    max_tokens: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole request; a prompt counts once, however many choices continue it."""

    num_prompt: int
    num_cached: int
    num_completion: int


class Generation:
    """Iterate for batches of (choice index, event): everything that is available, at once.

    Leaving the `async with` aborts what is not finished. Iteration raises EngineDead or RequestCancelled.
    """

    def __init__(
        self,
        slot: ModelSlot[ChatModel],
        model: ChatModel,
        options: GenerationOptions,
        thoughts: ThoughtFormat | None = None,
        reasoning: Reasoning = Reasoning.NONE,
        adapter: NamedAdapter | None = None,
        stops: Mapping[int, str] | None = None,
    ) -> None:
        """`stops`: stop strings that are one token without text."""
        self.model = model
        self.name = model.name if adapter is None else adapter.name  # of who answers
        has_own = adapter is not None and adapter.index < len(model.adapters)
        self.fingerprint = model.adapters[adapter.index] if adapter and has_own else model.fingerprint
        self.options = options
        self.has_logprobs = options.top_logprobs is not None  # events carry them
        self.thoughts = thoughts  # how its texts are written
        self.reasoning = reasoning  # what its texts begin with
        self.echoes: Sequence[Echo] = ()  # what stands before each prompt's answers
        self.num_left_out = 0  # messages of the conversation that the prompt is without
        self.finals: dict[int, TokenEvent] = {}  # choice → its last event
        self.latest: dict[int, TokenEvent] = {}  # of all, ended or not
        self._slot = slot
        self._stops = stops or {}
        self._n = options.n
        self._stack = AsyncExitStack()
        self._stack.enter_context(slot.used())
        self._streams: list[TokenStream] = []
        self._num_open = 0
        self._ready: Batch = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: ServingError | None = None

    @property
    def num_choices(self) -> int:
        return len(self._streams)

    def echo_of(self, index: int) -> Echo:
        """What stands before the text of a choice; mostly nothing."""
        return self.echoes[index // self._n] if self.echoes else Echo()

    def usage(self) -> Usage:
        """What was read and said so far; complete once iteration has ended."""
        firsts: dict[int, TokenEvent] = {}  # a prompt's choices have read the same
        for index in sorted(self.latest):
            firsts.setdefault(index // self._n, self.latest[index])
        return Usage(
            sum(event.num_prompt_tokens for event in firsts.values()),
            sum(event.num_cached_tokens for event in firsts.values()),
            sum(event.num_completion_tokens for event in self.latest.values()),
        )

    async def submit(self, request: GenerateRequest) -> None:
        """Add a sequence; not after iteration has begun."""
        stream = await self.model.engine.submit(request)
        self._streams.append(await self._stack.enter_async_context(stream))

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def __aiter__(self) -> AsyncIterator[Batch]:
        self._num_open = len(self._streams)
        for index, stream in enumerate(self._streams):
            stream.subscribe(partial(self._receive, index))
        return self

    async def __anext__(self) -> Batch:
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._num_open == 0:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        batch, self._ready = self._ready, []
        return batch

    def _receive(self, index: int, item: TokenEvent | ServingError) -> None:
        """Collects while the reader is busy, so that what came meanwhile is one batch."""
        if not isinstance(item, ServingError) and item.finish_reason is FinishReason.ABORT:
            item = RequestCancelled()
        if isinstance(item, ServingError):  # raised to the reader, after what came before it
            if isinstance(item, EngineDead):
                self._slot.fail(self.model, item)
            self._error = self._error or item
            self._num_open -= 1
        else:
            if self._stops and item.finish_reason is FinishReason.STOP and item.stop_string is None:
                item = replace(item, stop_string=self._stops.get(item.token_ids[-1]))
            self.latest[index] = item
            if item.finish_reason is not None:
                self.finals[index] = item
                self._num_open -= 1
            self._ready.append((index, item))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def start_generation(
    slot: ModelSlot[ChatModel],
    model: ChatModel,
    request_id: str,
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    defaults: GenerationDefaults,
    thoughts: ThoughtFormat | None = None,
    reasoning: Reasoning = Reasoning.NONE,
    given: tuple[GivenRows, ...] = (),
    adapter: NamedAdapter | None = None,
) -> Generation:
    """Submit `n` sequences a prompt; choice `p * n + i` has the seed plus i. All are admitted or none.

    `given` is for a single prompt.

    Raises: ContextLengthExceeded, InvalidRequest (a bias for a token that is none; see `bind` and
    `endings_of`), ConstraintError, Overloaded, EngineDead.
    """
    _check(model, prompts, options)
    endings = endings_of(model, options.stop, options.stop_ids, options.ends, ignore_eos=options.ignore_eos)
    limit = model.engine.max_context
    constraints, reasoning = await bind(
        model,
        len(prompts) * options.n,
        options.form,
        options.form_param,
        reasoning,
        options.thinking_budget,
    )
    seed = random.getrandbits(64) if options.seed is None else options.seed
    generation = Generation(slot, model, options, thoughts, reasoning, adapter, endings.names)
    around = thoughts_around(thoughts, reasoning)
    try:
        for p, prompt in enumerate(prompts):
            for i in range(options.n):
                index = p * options.n + i
                sampling = _sampling(options, defaults, limit - len(prompt), seed + i, around)
                request = GenerateRequest(
                    f"{request_id}-{index}",
                    prompt,
                    sampling,
                    endings.ids,
                    options.priority,
                    options.fairness_key,
                    constraints[index],
                    given,
                    None if adapter is None else adapter.index,
                )
                await generation.submit(request)
    except BaseException as error:
        await generation.__aexit__()
        if isinstance(error, EngineDead):
            slot.fail(model, error)
        raise
    return generation


def _check(model: ChatModel, prompts: Sequence[list[int]], options: GenerationOptions) -> None:
    limit, vocab_size = model.engine.max_context, model.engine.vocab_size
    for prompt in prompts:
        if len(prompt) >= limit:
            raise ContextLengthExceeded(len(prompt), 0, limit)
    foreign = next((i for i, _ in options.logit_bias if not 0 <= i < vocab_size), None)
    if foreign is not None:
        raise InvalidRequest(
            f"'logit_bias' has the token id {foreign}; those of '{model.name}' are 0 to {vocab_size - 1}.",
            "logit_bias",
        )


def _sampling(
    options: GenerationOptions,
    defaults: GenerationDefaults,
    room: int,
    seed: int,
    thoughts: tuple[str, str] | None,
) -> SamplingParams:
    asked = defaults.max_tokens if options.max_tokens is None else options.max_tokens
    temperature = defaults.temperature if options.temperature is None else options.temperature
    return SamplingParams(
        max_tokens=min(asked, room),
        temperature=temperature if temperature >= COLDEST else 0.0,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        typical_p=options.typical_p,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repetition_penalty=options.repetition_penalty,
        seed=seed & (2**64 - 1),
        stop=options.stop,
        thoughts=thoughts,
        min_tokens=options.min_tokens,
        logit_bias=options.logit_bias,
        top_logprobs=options.top_logprobs,
        prompt_logprobs=options.prompt_logprobs,
    )
