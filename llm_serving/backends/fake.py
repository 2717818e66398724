"""A model without weights: deterministic, instant, and strict about the engine's block tables.

It serves for developing, demonstrating and testing everything above the runner. It answers with a readable
sentence, or says whatever it is told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from hashlib import blake2b

import numpy as np

from llm_serving.backends.fake_keys import GIVEN_WIDTH as GIVEN_WIDTH
from llm_serving.backends.fake_keys import digest, written
from llm_serving.backends.fake_states import FakeStates
from llm_serving.backends.tier import open_tier
from llm_serving.chat import harmony
from llm_serving.chat.reasoning import THINK
from llm_serving.checkpoints import FillIn
from llm_serving.checkpoints.special_tokens import SpecialTokens
from llm_serving.engine.async_engine import AsyncEngine
from llm_serving.engine.protocol import EngineOptions, RunnerLimits, Step
from llm_serving.engine.sampler import NumpySampler
from llm_serving.images.expansion import IMAGE

NUM_BYTES = 256
# Ids 256 … 511 are the same bytes once more, as the model says them. No text is ever encoded to them, so the
# runner can tell, from a sequence's tokens alone, where the prompt ended.
SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
TAGS = (THINK.open, THINK.close)  # around thoughts: a token each, and text
# Of messages: special, and text all the same.
MARKS = (harmony.START, harmony.CHANNEL, harmony.MESSAGE, harmony.END, harmony.CONSTRAIN)
NAMES = SPECIAL_TOKENS + TAGS + MARKS + (IMAGE,)
FIRST_SPECIAL = 2 * NUM_BYTES
FIRST_TAG = FIRST_SPECIAL + len(SPECIAL_TOKENS)
EOS_ID = FIRST_SPECIAL + 1
FIRST_MARK = FIRST_TAG + len(TAGS)
VOCAB_SIZE = FIRST_SPECIAL + len(NAMES)

REPLIES = (
    "The quick brown fox jumps over the lazy dog.",
    "I am a fake model, but I mean well.",
    "Nothing was computed for this answer — and yet here it is. 😀",
    "Ask me anything; I shall say something.",
)

FAKE_MODEL = b"the fake model 1"  # names blocks on disk: 16 bytes

_PEAK = 24.0  # logit of the scripted token; all others of the model's alphabet lie in 0 … 1
_NEVER = -30.0


class FakeTokenizer:
    """Byte-level: one token a byte, and a few special tokens that only `encode_prompt` recognises."""

    def __init__(self) -> None:
        self.vocab_size = VOCAB_SIZE
        self.bos_id = FIRST_SPECIAL
        self.bos_token = SPECIAL_TOKENS[0]
        self.eos_token = SPECIAL_TOKENS[1]
        self.eos_ids = frozenset({EOS_ID, FIRST_SPECIAL + 3})
        self.special_ids = frozenset([*range(FIRST_SPECIAL, FIRST_TAG), *range(FIRST_MARK, VOCAB_SIZE)])
        alphabet = [bytes([byte]) for byte in range(NUM_BYTES)]
        self.token_bytes = alphabet + alphabet + [b""] * len(SPECIAL_TOKENS)
        self.token_bytes += [name.encode() for name in TAGS + MARKS] + [b""]
        self.adds_bos = True
        self.fill_in: FillIn | None = None
        self.prompt_ids = {name: FIRST_SPECIAL + i for i, name in enumerate(NAMES)}
        self._special = SpecialTokens(NAMES)

    def encode(self, text: str) -> list[int]:
        """Plain text; what looks like a special token is text as well. Lone surrogates become `?`."""
        return list(text.encode("utf-8", "replace"))

    encode_behind = encode

    def encode_prompt(self, text: str, *, add_bos: bool = True) -> list[int]:
        """A rendered template: special tokens are recognised, except in guarded parts."""
        ids = []
        for index, part in enumerate(self._special.split(text)):
            if index % 2:
                ids.append(FIRST_SPECIAL + NAMES.index(part))
            else:
                ids.extend(self.encode(part))
        return [self.bos_id, *ids] if add_bos and ids[:1] != [self.bos_id] else ids

    def guard(self, text: str) -> str:
        """Make a user's text safe to put into a template: it cannot form special tokens there."""
        return self._special.guard(text)

    def piece(self, token_id: int) -> bytes:
        """A token's byte, or a special token's name."""
        if token_id >= FIRST_SPECIAL:
            return NAMES[token_id - FIRST_SPECIAL].encode()
        return self.token_bytes[token_id]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
        pieces = []
        for token_id in ids:
            if token_id < 0:
                raise IndexError(f"The token id {token_id} is negative.")
            pieces.append(self.token_bytes[token_id] if skip_special else self.piece(token_id))
        return b"".join(pieces).decode("utf-8", "replace")


class FakeRunner:
    """`ModelRunner` whose logits are a hash of the whole context, read back through the block tables.

    Its memory holds a token id and a position a slot; reading a slot that was not written for that position
    raises, and any other mix-up of blocks changes the logits. On top of the hash one token is all but
    certain: the next byte of the reply, then end-of-sequence.

    reply: what to say; None = a sentence chosen by the prompt. random: no script, the hash decides, over the
    reply bytes and end-of-sequence. always_eos: end at once. step_seconds: how long a step takes.
    fail_at_step: the step, counted from 0, that raises RuntimeError. before_step: called by each; may wait.
    """

    def __init__(
        self,
        limits: RunnerLimits,
        *,
        reply: str | None = None,
        random: bool = False,
        always_eos: bool = False,
        step_seconds: float = 0.0,
        fail_at_step: int | None = None,
        before_step: Callable[[], object] | None = None,
    ) -> None:
        self.limits = limits
        self.step_seconds = step_seconds
        self.fail_at_step = fail_at_step
        self.num_steps = 0
        self.num_tokens = 0  # computed since the start
        self.is_closed = False
        self._replies = [text.encode() for text in (REPLIES if reply is None else (reply,))]
        self._before_step = before_step
        self._random = random
        self._always_eos = always_eos
        self.block_bytes = 2 * limits.block_size * 4
        shape = (limits.num_blocks, limits.block_size)
        self._kv_tokens = np.full(shape, -1, np.int32)
        self._kv_positions = np.full(shape, -1, np.int32)
        self._states = FakeStates(limits) if limits.num_states else None
        self._logits = np.empty((limits.max_step_tokens, limits.vocab_size), np.float32)
        self._ids = np.arange(limits.vocab_size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    def run(self, step: Step) -> np.ndarray:
        """See `ModelRunner.run`. Raises: RuntimeError (scripted, closed, or a broken step)."""
        if self.is_closed:
            raise RuntimeError("the fake runner is closed")
        number, self.num_steps = self.num_steps, self.num_steps + 1
        if self._before_step is not None:
            self._before_step()
        if self.step_seconds:
            time.sleep(self.step_seconds)
        if number == self.fail_at_step:
            raise RuntimeError(f"the fake runner fails at step {number}, as it was told to")
        self._check(step)
        self.num_tokens += len(step.token_ids)
        block_size = self.limits.block_size
        lengths = np.diff(step.query_starts)
        owners = np.repeat(np.arange(len(lengths)), lengths)  # token → sequence
        blocks = step.block_tables[owners, step.positions // block_size]
        if (blocks < 0).any() or (blocks >= self.limits.num_blocks).any():
            raise RuntimeError("a block table has no block for a position")
        self._kv_tokens[blocks, step.positions % block_size] = written(step)
        self._kv_positions[blocks, step.positions % block_size] = step.positions
        if self._states:
            self._states.run(step, lambda i: self._context(step.block_tables[owners[i]], step.positions[i]))
        elif step.state_segments is not None:
            raise RuntimeError("a step has states, and the runner none")
        logits = self._logits[: len(step.logit_rows)]
        for row, index in enumerate(step.logit_rows):
            self._write_logits(
                logits[row], self._context(step.block_tables[owners[index]], step.positions[index])
            )
        return logits

    def read_block(self, block: int, out: np.ndarray) -> None:
        """See `BlockMemory.read_block`."""
        out[:] = np.stack([self._kv_tokens[block], self._kv_positions[block]]).view(np.uint8).reshape(-1)

    def write_block(self, block: int, data: np.ndarray) -> None:
        """See `BlockMemory.write_block`."""
        self._kv_tokens[block], self._kv_positions[block] = data.view(np.int32).reshape(2, -1)

    def close(self) -> None:
        self.is_closed = True

    def _check(self, step: Step) -> None:
        num_tokens, num_sequences = len(step.token_ids), len(step.query_starts) - 1
        if not 0 < num_tokens <= self.limits.max_step_tokens:
            raise RuntimeError(f"a step of {num_tokens} tokens, the limit is {self.limits.max_step_tokens}")
        if not 0 < num_sequences <= self.limits.max_sequences:
            raise RuntimeError(
                f"a step of {num_sequences} sequences, the limit is {self.limits.max_sequences}"
            )
        arrays = (step.token_ids, step.positions, step.query_starts, step.block_tables, step.logit_rows)
        if any(array.dtype != np.int32 for array in arrays) or len(step.block_tables) != num_sequences:
            raise RuntimeError("a step's arrays are not of the agreed types and shapes")
        if (
            step.query_starts[0] != 0
            or step.query_starts[-1] != num_tokens
            or (np.diff(step.query_starts) < 1).any()
        ):
            raise RuntimeError("a step's query_starts do not cut its tokens into sequences")
        if step.positions.max() >= self.limits.max_context or step.token_ids.max() >= self.limits.vocab_size:
            raise RuntimeError("a step has a position or a token id beyond the limits")

    def _context(self, table: np.ndarray, position: int) -> np.ndarray:
        """int32 ids of the sequence up to and including `position`, out of the cache."""
        used = table[: position // self.limits.block_size + 1]
        if not np.array_equal(self._kv_positions[used].reshape(-1)[: position + 1], np.arange(position + 1)):
            raise RuntimeError("a block is read that does not hold the sequence's earlier positions")
        context: np.ndarray = self._kv_tokens[used].reshape(-1)[: position + 1]
        return context

    def _write_logits(self, out: np.ndarray, context: np.ndarray) -> None:
        z = self._ids + np.uint64(digest(context))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        np.multiply(z >> np.uint64(40), np.float32(2.0**-24), out=out, casting="unsafe")
        out[:NUM_BYTES] += np.float32(_NEVER)
        out[FIRST_SPECIAL:] += np.float32(_NEVER)
        if self._always_eos:
            out[EOS_ID] = _PEAK
        elif self._random:
            out *= np.float32(8.0)
            out[EOS_ID] = 0.0
        else:
            out[self._next_of_reply(context)] = _PEAK

    def _next_of_reply(self, context: np.ndarray) -> int:
        said = (context >= NUM_BYTES) & (context < FIRST_SPECIAL)
        is_prompt = np.flatnonzero(~said)
        num_prompt = int(is_prompt[-1]) + 1 if len(is_prompt) else 0
        reply = self._replies[digest(context[:num_prompt]) % len(self._replies)]
        num_said = len(context) - num_prompt
        return NUM_BYTES + reply[num_said] if num_said < len(reply) else EOS_ID


def fake_limits(options: EngineOptions) -> RunnerLimits:
    """Small enough to be instant, large enough for any conversation."""
    context = options.context_length or 4096
    blocks_each = -(-context // 16)
    return RunnerLimits(
        vocab_size=VOCAB_SIZE,
        block_size=16,
        num_blocks=blocks_each * max(4, min(options.max_concurrency, 16)),
        max_step_tokens=512,
        max_sequences=options.max_concurrency,
        max_context=context,
        given_width=GIVEN_WIDTH,
        adapters=tuple(blake2b(str(path).encode(), digest_size=16).digest() for path in options.adapters),
    )


def load_fake_engine(
    options: EngineOptions,
    *,
    limits: RunnerLimits | None = None,
    reply: str | None = None,
    random: bool = False,
    always_eos: bool = False,
    step_seconds: float = 0.0,
    fail_at_step: int | None = None,
    before_step: Callable[[], object] | None = None,
) -> AsyncEngine:
    """An engine over a `FakeRunner` of this behaviour; its tokens are `FakeTokenizer`'s."""
    runner = FakeRunner(
        limits or fake_limits(options),
        reply=reply,
        random=random,
        always_eos=always_eos,
        step_seconds=step_seconds,
        fail_at_step=fail_at_step,
        before_step=before_step,
    )
    tier = open_tier(runner, FAKE_MODEL, options)
    return AsyncEngine(runner, NumpySampler(), FakeTokenizer().token_bytes, options, "fake", tier)
