"""ModelRunner over the C++ plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_serving.checkpoints import Checkpoint
from llm_serving.engine.protocol import RunnerLimits, Step
from llm_serving.native.adapters import Adapted
from llm_serving.native.ops import ModelPlan
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.plan import PlanBuilder, core_plan
from llm_serving.native.tables import rope_table
from llm_serving.native.work import matrix_work

BLOCK_SIZE = 16  # tokens; kBlockTokens in kernels.hpp
ROPE_SAMPLE = 64  # positions whose sines and cosines tell those of another math library


def kv_block_bytes(plan: ModelPlan, kv_format: str) -> int:
    """Bytes that one block of `BLOCK_SIZE` tokens takes over all layers, kept as `kv_format`."""

    def vector_bytes(head_dim: int) -> int:
        return 4 + {"q16": 2 * head_dim, "q8": head_dim, "q4": -(-head_dim // 32) * 16}[kv_format]

    return sum(2 * layer.heads * vector_bytes(layer.head_dim) * BLOCK_SIZE for layer in plan.kv)


def state_bytes(plan: ModelPlan) -> int:
    """Bytes that a slot for states of the recurrent layers takes."""
    return 4 * plan.state_floats


class NativeRunner:
    """Owns weights, KV pool and threads. Not thread-safe: one engine thread calls it.

    `kv_format` is what keys and values are kept as: `q16`, integers with a scale for each vector; or vectors
    that are rotated first, as `q8`, bytes with a scale, or as `q4`, one of sixteen values and a scale.
    A step names `adapters` by their place in the list.
    `content`, 16 bytes, names model, weights and arithmetic: runners that share it compute equal blocks.

    Raises: CheckpointError when the checkpoint does not fit the plan; ValueError for an unknown ISA, or a
    `kv_format` that is unknown or does not take such heads.
    """

    def __init__(
        self,
        plan: ModelPlan,
        checkpoint: Checkpoint,
        *,
        num_blocks: int,
        num_states: int = 0,
        max_context: int,
        max_step_tokens: int = 512,
        max_sequences: int = 32,
        threads: int = 1,
        isa: str = "auto",
        weight_format: str = "auto",
        kv_format: str = "q16",
        packed: PackedCache | None = None,
        adapters: Sequence[Adapted] = (),
    ) -> None:
        self.limits = RunnerLimits(
            vocab_size=plan.vocab_size,
            block_size=BLOCK_SIZE,
            num_blocks=num_blocks,
            max_step_tokens=max_step_tokens,
            max_sequences=max_sequences,
            max_context=max_context,
            given_width=plan.given_width,
            given_span=plan.given_span,
            given_axes=bool(plan.rope.axes),
            adapters=tuple(adapter.digest for adapter in adapters),
            takes_drafts=not num_states,  # what a state has taken in it cannot give back
            num_states=num_states,
        )
        self._core = core_plan(threads=threads, isa=isa, max_tokens=max_step_tokens, max_context=max_context)
        builder = PlanBuilder(plan, checkpoint, self._core, weight_format, max_context, packed, adapters)
        self._logits = builder.build()
        rope = rope_table(plan.rope, checkpoint, max_context)
        if plan.kv:
            self._core.rope_table(rope, plan.rope.axes)
            self._core.kv_cache([(layer.heads, layer.head_dim) for layer in plan.kv], num_blocks, kv_format)
        if num_states:
            self._core.states(num_states)
        self.block_bytes: int = self._core.block_bytes
        self.content = builder.content_digest(kv_format, self.block_bytes, rope[:ROPE_SAMPLE].tobytes())
        self.kv_format = kv_format
        self.isa: str = self._core.isa
        self.threads: int = self._core.threads
        self.weight_bytes: int = self._core.weight_bytes
        self.work = matrix_work(plan, checkpoint, builder.packed_bytes)

    def run(self, step: Step) -> np.ndarray:
        """See `ModelRunner.run`. Raises: ValueError for ids out of range."""
        logits: np.ndarray = self._core.run(
            step.token_ids,
            step.positions,
            step.query_starts,
            step.block_tables,
            step.logit_rows,
            self._logits,
            step.given,
            step.given_rows,
            step.seen,
            step.adapters,
            step.state_segments,
            step.rotary,
        )
        return logits

    def prepare(self) -> bool:
        """Get memory of the KV cache ready for a few ms; whether there is more. Releases the GIL."""
        more: bool = self._core.touch_while_idle()
        return more

    def read_block(self, block: int, out: np.ndarray) -> None:
        """See `BlockMemory.read_block`. Raises: ValueError for an id or a size out of range."""
        self._core.read_block(block, out)

    def write_block(self, block: int, data: np.ndarray) -> None:
        """See `BlockMemory.write_block`. Raises: ValueError for an id or a size out of range."""
        self._core.write_block(block, data)

    def close(self) -> None:
        """Drop the plan: its threads end and its memory goes back."""
        self._core = None
