"""The seams of the engine. Each protocol has one contract suite, run over every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from llm_serving.engine.request import (
    GenerateRequest,
    SamplingParams,
    TokenEvent,
    TokenLogprobs,
)
from llm_serving.errors import ServingError


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What a runner can hold; the scheduler obeys it."""

    vocab_size: int
    block_size: int  # tokens a KV block holds
    num_blocks: int  # blocks in the pool, ids 0 … num_blocks-1
    max_step_tokens: int  # tokens one `run` may carry
    max_sequences: int  # sequences one `run` may carry
    max_context: int  # tokens one sequence may hold
    takes_drafts: bool = True  # whether tokens of a sequence may be computed and then replaced by others
    has_all_logits: bool = True  # whether logits of any token may be wanted, not only of a sequence's last
    given_width: int = 0  # of rows that may stand for a token's embedding; 0 = it takes none
    given_span: int = 0  # rows given together that may see each other all, also those that come; 0 = none do
    given_axes: bool = False  # whether rotary positions of given rows go by their place in a grid
    adapters: tuple[bytes, ...] = ()  # of each that a sequence may have: 16 bytes that name what it does
    num_states: int = 0  # slots for states of recurrent layers; 0 = it has none. Then `takes_drafts` is False


@dataclass(slots=True)
class Step:
    """One forward pass: any number of tokens for each of N sequences. There are no modes.

    Tokens of sequence i are `token_ids[query_starts[i] : query_starts[i + 1]]`, at consecutive
    `positions`. The keys and values of position p live in block `block_tables[i, p // block_size]`,
    slot `p % block_size`; all earlier positions of the sequence have been written by earlier steps.
    A position may come again with another token, which then replaces what was written (drafts).
    """

    token_ids: np.ndarray  # int32 [num_tokens]
    positions: np.ndarray  # int32 [num_tokens]
    query_starts: np.ndarray  # int32 [num_sequences + 1]
    block_tables: np.ndarray  # int32 [num_sequences, max blocks of any], padded with -1
    logit_rows: np.ndarray  # int32 [num_rows]: indices into token_ids whose logits are wanted
    # float32 [num_given, given_width]: what stands for embeddings of some tokens, if the runner takes that
    given: np.ndarray | None = None
    given_rows: np.ndarray | None = None  # int32 [num_given]: indices into token_ids, ascending
    # int32 [num_tokens]: how many of its sequence's positions each token sees; None = up to its own. No token
    # sees less than the one before it, or more than up to the last of the sequence in this step.
    seen: np.ndarray | None = None
    adapters: np.ndarray | None = None  # int32 [num_sequences]: indices into limits.adapters, or -1
    # int32 [num_segments, 3], if the runner has states. They cut the tokens, in order, into stretches of one
    # sequence each. (end, source, target): the tokens up to index `end` go on from the state in slot
    # `source`, at position 0 from zeros, which is -1, and leave theirs in slot `target`. What one sequence
    # writes, no other reads or writes in this step.
    state_segments: np.ndarray | None = None
    # int32 [num_tokens, 3]: rotary positions in time, height and width, each below `limits.max_context`, if
    # `limits.given_axes`; None = all three are the token's position.
    rotary: np.ndarray | None = None


class ModelRunner(Protocol):
    """Runs the model. Engine thread only; owns the memory, obeys the scheduler.

    A row's logits depend on that sequence's own tokens only: not on the rest of the batch, not on
    how the tokens were cut into steps, not on the number of threads. Bit for bit.
    """

    limits: RunnerLimits

    def run(self, step: Step) -> np.ndarray:
        """Return float32 logits [num_rows, vocab_size], valid until the next call. Releases the GIL."""
        ...

    def close(self) -> None:
        """Give threads and memory back. Safe to call twice."""
        ...


class BlockMemory(Protocol):
    """What a runner offers beside `ModelRunner` if its blocks can be kept elsewhere. Engine thread only."""

    block_bytes: int

    def read_block(self, block: int, out: np.ndarray) -> None:
        """Copy all that a block holds to `out`, uint8 [block_bytes]."""
        ...

    def write_block(self, block: int, data: np.ndarray) -> None:
        """Make a block hold what `read_block` gave of another, which had the same tokens before it."""
        ...


class BlockStore(Protocol):
    """Blocks outside of the runner's memory, by digest; `depth` is the number of blocks before one.

    Engine thread only, but for the properties. Raises nothing: a store that is broken has nothing.
    """

    @property
    def num_read(self) -> int: ...
    @property
    def num_written(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

    def has(self, digest: bytes) -> bool:
        """Whether `load` would probably succeed."""
        ...

    def load(self, digest: bytes, depth: int, out: np.ndarray) -> bool:
        """Fill `out`, uint8 [block_bytes]; if False, it holds anything."""
        ...

    def touch(self, digest: bytes, depth: int) -> bool:
        """Note a use of a block; False if it is not known to be there, and should be saved."""
        ...

    def save(self, digest: bytes, depth: int, read: Callable[[np.ndarray], None]) -> bool:
        """Keep what `read` writes to an array as `load` takes it; False, without a call, while it is busy."""
        ...

    def close(self) -> None:
        """Finish what is under way, within seconds."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What the sampler needs beside the logits of one row."""

    params: SamplingParams
    position: int  # of the token to be chosen; with the seed it fixes the random number
    prompt_ids: list[int]
    output_ids: list[int]


class Sampler(Protocol):
    """Chooses one token a row. Pure: same logits, same rows, same tokens."""

    def sample(self, logits: np.ndarray, rows: list[SamplingRow]) -> list[int]:
        """`logits` is float32 [len(rows), vocab_size] and may be overwritten."""
        ...

    def logprobs(self, logits: np.ndarray, token_ids: list[int], counts: list[int]) -> list[TokenLogprobs]:
        """Of each row those of its token and of the `counts[i]` likeliest; `logits` may be overwritten."""
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine needs to know of the settings. 0 means: decide by yourself."""

    threads: int = 0
    context_length: int = 0  # tokens; 0 = what the model was trained for, if memory allows
    memory_bytes: int = 0  # bound for weights + KV
    max_concurrency: int = 32  # sequences in one step
    max_queue: int = 64  # requests that may wait for a place
    quantization: str = "auto"
    kv_cache: str = "auto"  # what keys and values are kept as
    speculation: str = "auto"  # or "off"
    step_ms: float = 60.0  # longest step, as far as prompts make it, while anyone decodes
    packed_dir: Path | None = None  # where packed weights are kept for the next start
    packed_bytes: int = 0  # bound for them; 0 = keep none
    prefix_dir: Path | None = None  # where blocks of the prefix cache are kept; None = nowhere
    prefix_bytes: int = 0  # bound for them
    sees: bool = True  # whether images may be sent, so that a model's eyes are loaded
    adapters: tuple[Path, ...] = ()  # directories of low-rank adapters, which requests name by their place
    draft_model: Path | None = None  # a small model of the same vocabulary, which guesses ahead


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot, cheap to take from any thread."""

    device: str
    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0  # cached blocks that may be evicted count as free
    num_prompt_tokens: int = 0  # totals since the start
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    num_drafted_tokens: int = 0  # guessed ahead
    num_accepted_tokens: int = 0  # of these, guessed right
    num_steps: int = 0
    step_seconds: float = 0.0  # total time spent in steps
    num_read_blocks: int = 0  # KV blocks from disk
    num_written_blocks: int = 0
    num_dropped_blocks: int = 0  # not written, because they came too fast
    disk_bytes: int = 0  # blocks on disk, of all models


Receive = Callable[[TokenEvent | ServingError], None]


class TokenStream(Protocol):
    """The events of one request. Leaving the `async with` aborts what is not finished."""

    async def __aenter__(self) -> TokenStream: ...
    async def __aexit__(self, *exc: object) -> None: ...
    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Events in order; the last has a finish_reason.

        Raises: EngineDead, RequestCancelled (the engine closed while this one ran).
        """
        ...

    def subscribe(self, receive: Receive) -> None:
        """Instead of iterating: have `receive` called on this loop with every event, or the error that ends
        them, as they come. It must not raise.
        """
        ...


class Engine(Protocol):
    """What services see. One event loop; any engine behind it."""

    vocab_size: int
    max_context: int
    takes_constraints: bool  # whether any `GenerateRequest.constraint` can bind an answer
    takes_forms: bool  # whether one can that is of a form and binds the whole answer

    def stats(self) -> EngineStats: ...

    async def submit(self, request: GenerateRequest) -> TokenStream:
        """Admit a request.

        Raises: Overloaded (queue full or draining), EngineDead, ContextLengthExceeded (can never fit),
        InvalidRequest (empty prompt, unknown token id, id in use), UnsupportedParameter.
        """
        ...

    async def close(self, drain_s: float = 0.0) -> None:
        """Admit nothing more, wait up to `drain_s` seconds for running requests, cancel the rest."""
        ...
