"""Completion: a prompt in, its continuation out; no template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_serving.checkpoints import FillIn
from llm_serving.errors import ContextLengthExceeded, InvalidRequest
from llm_serving.service.chat import INLINE_CHARS
from llm_serving.service.echo import Echo, make_echo
from llm_serving.service.generation import (
    Generation,
    GenerationDefaults,
    GenerationOptions,
    start_generation,
)
from llm_serving.service.infill import Infill, infill_ids
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry
from llm_serving.service.slot import ModelSlot
from llm_serving.service.tokens import INLINE_TOKENS

MOST_LOGPROBS = 1 << 17  # of the prompts of one request; each takes a few hundred bytes on its way out

Prompt = str | list[int]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Texts or token arrays to continue, `options.n` times each."""

    request_id: str
    prompts: Sequence[Prompt]
    options: GenerationOptions
    model: str | None = None
    has_echo: bool = False  # the prompt's text stands before each of its answers
    suffix: str = ""  # what stands behind each of its answers; they fill in between
    reads_special: bool = True  # special tokens by their names in texts, where there is no suffix


class CompletionService:
    """Completions for the models of one registry."""

    def __init__(self, registry: Registry, defaults: GenerationDefaults) -> None:
        self._registry = registry
        self._defaults = defaults

    async def open(self, request: CompletionRequest) -> Generation:
        """Admit the prompts; use the result in an `async with`. Choice `p * n + i` continues prompt p.

        Raises: InvalidRequest (empty prompt, token id out of range, a suffix for a model that cannot fill in,
        log-probabilities of prompts that are too many, or of a model that does not tell them) and what
        `ChatService.open` raises.
        """
        slot = self._registry.find(request.model)
        with slot.used():
            return await self._open(slot, await slot.ask(), request)

    async def fill_in(
        self, request_id: str, infill: Infill, options: GenerationOptions, name: str | None
    ) -> Generation:
        """As `open`, for what goes to a place in a file. Raises: as `infill_ids` and `ChatService.open`."""
        slot = self._registry.find(name)
        with slot.used():
            model = await slot.ask()
            wanted = self._defaults.max_tokens if options.max_tokens is None else options.max_tokens
            ids = await asyncio.to_thread(infill_ids, model, infill, wanted)
            if (fill_in := model.tokenizer.fill_in) is not None:
                options = replace(options, ends=fill_in.ends)
            adapter = self._registry.adapter(name)
            try:
                return await start_generation(
                    slot, model, request_id, [ids], options, self._defaults, adapter=adapter
                )
            except ContextLengthExceeded as error:
                error.param = "input_prefix"
                raise

    async def _open(
        self, slot: ModelSlot[ChatModel], model: ChatModel, request: CompletionRequest
    ) -> Generation:
        fill_in = model.tokenizer.fill_in

        def read() -> tuple[list[list[int]], list[Echo], bool]:
            prompts = prompts_ids(model, request)
            # Also where the prompt itself has the tokens around a gap, as some editors write it.
            has_gap = fill_in is not None and any(fill_in.middle in ids for ids in prompts)
            if not request.has_echo:
                return prompts, [], has_gap
            has_tokens = request.options.prompt_logprobs is not None
            echoes = [
                make_echo(model.tokenizer, prompt, ids if has_tokens else (), request.reads_special)
                for prompt, ids in zip(request.prompts, prompts, strict=True)
            ]
            return prompts, echoes, has_gap

        prompts, echoes, has_gap = await asyncio.to_thread(read) if _is_long(request) else read()
        _check_logprobs(prompts, request.options)
        options = replace(request.options, ends=fill_in.ends) if fill_in and has_gap else request.options
        try:
            generation = await start_generation(
                slot,
                model,
                request.request_id,
                prompts,
                options,
                self._defaults,
                adapter=self._registry.adapter(request.model),
            )
        except ContextLengthExceeded as error:
            error.param = "prompt"
            raise
        generation.echoes = echoes
        return generation


def _is_long(request: CompletionRequest) -> bool:
    """Whether to read its texts, or to make its tokens text, may take longer than a stream should wait."""
    num_chars = sum(len(text) for text in (*request.prompts, request.suffix) if isinstance(text, str))
    num_tokens = sum(len(prompt) for prompt in request.prompts if not isinstance(prompt, str))
    return num_chars > INLINE_CHARS or num_tokens > INLINE_TOKENS


def prompts_ids(model: ChatModel, request: CompletionRequest) -> list[list[int]]:
    """Token ids of every prompt, with a suffix those that ask for what stands between: then both are a
    user's code, and read without special tokens. Raises: InvalidRequest.
    """
    tokenizer, prompts = model.tokenizer, request.prompts
    fill_in = fill_in_of(model, request.suffix)
    behind = tokenizer.encode_behind(request.suffix) if fill_in else []
    reads_special = request.reads_special and fill_in is None
    result = []
    for i, prompt in enumerate(prompts):
        name = f"prompt.{i}" if len(prompts) > 1 else "prompt"
        if isinstance(prompt, str):
            ids = tokenizer.encode_prompt(prompt if reads_special else tokenizer.guard(prompt))
        else:
            ids = prompt
            _check_ids(ids, tokenizer.vocab_size, name)
        if fill_in is not None:
            ids = fill_in.prompt(ids, behind)
        if not ids:
            raise InvalidRequest(f"'{name}' is empty: there is nothing to continue.", name)
        result.append(ids)
    return result


def fill_in_of(model: ChatModel, suffix: str) -> FillIn | None:
    """The tokens that a prompt with a suffix needs; None without one. Raises: InvalidRequest."""
    if suffix and model.tokenizer.fill_in is None:
        raise InvalidRequest(
            f"The model '{model.name}' has no tokens for filling in before a 'suffix'. Leave it out.",
            "suffix",
        )
    return model.tokenizer.fill_in if suffix else None


def _check_logprobs(prompts: Sequence[list[int]], options: GenerationOptions) -> None:
    """Raises: InvalidRequest where those of the prompts would be too many."""
    if options.prompt_logprobs is None:
        return
    count = sum(map(len, prompts)) * options.n * (1 + options.prompt_logprobs)
    if count > MOST_LOGPROBS:
        raise InvalidRequest(
            f"'logprobs' together with 'echo' asks for {count} numbers: tokens of prompts, times answers of "
            f"each, times 1 + 'logprobs'. {MOST_LOGPROBS} are possible; send fewer prompts, or shorter ones.",
            "logprobs",
        )


def _check_ids(ids: list[int], vocab_size: int, name: str) -> None:
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        raise InvalidRequest(f"'{name}' holds a token id outside 0 … {vocab_size - 1}.", name)
