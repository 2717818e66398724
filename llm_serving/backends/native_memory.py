"""What a chat model of the native engine takes of the memory, its draft model included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_serving.backends.memory_need import MemoryNeed, kv_share
from llm_serving.backends.native_draft import Draft
from llm_serving.backends.sight import sight_need
from llm_serving.checkpoints import Checkpoint, Tensor
from llm_serving.checkpoints.kinds import KINDS
from llm_serving.checkpoints.small_kinds import HELD_AS
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.speculation import MAX_DRAFTING
from llm_serving.errors import ServingError
from llm_serving.native.adapters import Adapted
from llm_serving.native.cpu import memory_limit_bytes
from llm_serving.native.ops import Linear, ModelPlan, Stripe
from llm_serving.native.runner import BLOCK_SIZE, kv_block_bytes, state_bytes

WORKING_BYTES = 150 << 20  # interpreter, buffers, tokenizer: what is neither weights nor KV
LEAST_SNAPSHOTS = 8  # of the states of recurrent layers
MOST_EMPTY_BLOCKS = 1 << 16  # that hold nothing, in a model without keys and values: a million tokens
LEAST_CONTEXT = 512  # tokens: with fewer, a server is of no use
# Bytes a weight takes in memory, at most; None: about what it takes in the file.
QUANTIZATIONS = {"auto": None, "q4": 0.75, "q8": 1.0625, "f32": 4.0}
FINE = 2.125  # the same of `Projection.fine`
# Of these it takes what blocks of the kind do not; see the packed formats in docs/architecture.md.
OTHER_PACKED = {"Q2_K": 1.0625, "Q3_K": 0.571, "Q5_1": 1.0625, "NF4": 0.5625, "E2M1_16": 0.625} | {
    kind: KINDS[held].block_bytes / KINDS[held].block_size for kind, held in HELD_AS.items()
}
KV_FORMATS = {"auto": "q16", "q16": "q16", "q8": "q8", "q4": "q4"}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes; of keys and values by the blocks that the chat model's pool has.

    The draft model holds `MAX_DRAFTING` whole conversations, each as long as its own context at most, and as
    all that the pool holds.
    """

    weights: int  # of both models, adapters and eyes, and whatever is neither weights nor keys and values
    block: int
    context: int  # tokens a conversation may have, if the pool holds as many
    least_context: int
    draft_block: int = 0
    draft_context: int = 0
    state: int = 0  # of recurrent layers, for one sequence
    wanted_states: int = 0  # slots: one for each sequence, and as many for snapshots

    def draft_blocks(self, num_blocks: int) -> int:
        """Of the draft model, for all that it holds at once."""
        return MAX_DRAFTING * min(num_blocks, blocks_of(min(self.context, self.draft_context)))

    def kv(self, num_blocks: int) -> int:
        """Of a pool of so many blocks, and beside it."""
        return num_blocks * self.block + self.draft_blocks(num_blocks) * self.draft_block

    def num_states(self, room: int) -> int:
        """Slots in up to half of `room`, beside keys and values of a least context; but two at least.

        In all of it where no layer keeps keys and values.
        """
        if not self.state:
            return 0
        most = min(room // 2, room - self.kv(blocks_of(self.least_context))) if self.block else room
        return min(self.wanted_states, max(2, most // self.state))

    def num_blocks(self, room: int) -> int:
        """The largest pool for which `kv` is no more than `room`."""
        if not self.block:  # they are counted all the same: snapshots of states are found by their tokens
            return max(MOST_EMPTY_BLOCKS, blocks_of(self.context)) if room >= 0 else 0
        beside = MAX_DRAFTING * blocks_of(min(self.context, self.draft_context)) * self.draft_block
        return max(room // (self.block + MAX_DRAFTING * self.draft_block), (room - beside) // self.block)

    def need(self, max_concurrency: int) -> MemoryNeed:
        """The same for those who plan with several models."""
        conversation = blocks_of(self.context)
        two_states, all_states = 2 * self.state, self.wanted_states * self.state
        # Up to half of what there is are states.
        own_states = max(two_states, min(all_states, self.kv(conversation))) if self.block else all_states
        return MemoryNeed(
            self.weights,
            self.kv(blocks_of(self.least_context)) + two_states,
            self.kv(conversation) + own_states,
            self.kv(conversation * max_concurrency) + all_states,
        )


def memory_plan(
    plan: ModelPlan,
    checkpoint: Checkpoint,
    options: EngineOptions,
    draft: Draft | None,
    adapters: Sequence[Adapted] = (),
) -> MemoryPlan:
    """Raises: KeyError for a quantisation or KV cache that is not to be had."""
    kv_format = KV_FORMATS[options.kv_cache]
    context = min(options.context_length or plan.max_context, plan.max_context)
    return MemoryPlan(
        WORKING_BYTES
        + _weight_bytes(checkpoint, options)
        + _finer_bytes(plan, checkpoint, options)
        + sum(adapter.num_bytes for adapter in adapters)
        + (_weight_bytes(draft.checkpoint, replace(options, sees=False)) if draft else 0),
        kv_block_bytes(plan, kv_format),
        context,
        # A context that nobody asked for gives way.
        context if options.context_length else min(context, LEAST_CONTEXT),
        kv_block_bytes(draft.plan, kv_format) if draft else 0,
        draft.plan.max_context if draft else 0,
        state_bytes(plan),
        2 * max(options.max_concurrency, LEAST_SNAPSHOTS) if plan.state_floats else 0,
    )


def blocks_of(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


def pool_sizes(memory: MemoryPlan, options: EngineOptions) -> tuple[int, int]:
    """Blocks of keys and values, and slots of states, that there may be.

    Raises: ServingError when there is no room for one sequence.
    """
    given = options.memory_bytes
    room = given - memory.weights if given else kv_share(memory.weights, memory_limit_bytes())
    states = memory.num_states(room)
    room -= states * memory.state
    blocks = min(blocks_of(memory.context) * options.max_concurrency, memory.num_blocks(room))
    least = memory.least_context
    if blocks * BLOCK_SIZE < least:
        need = (memory.weights + memory.kv(blocks_of(least)) + states * memory.state) >> 20
        raise ServingError(
            f"Not enough memory for one sequence of {least} tokens: about {need} MiB are needed. "
            "Raise --memory or lower --context-length"
            + (", or leave --draft-model out." if memory.draft_block else ".")
        )
    return blocks, states


def _weight_bytes(checkpoint: Checkpoint, options: EngineOptions) -> int:
    """Of the model, and all that its eyes take: those are loaded beside it."""
    eyes = sight_need(checkpoint, options)
    tensors = [tensor for name, tensor in checkpoint.tensors.items() if name not in eyes.tensors]
    a_weight = QUANTIZATIONS[options.quantization]
    if a_weight is None:
        return eyes.num_bytes + sum(map(_packed_bytes, tensors))
    return eyes.num_bytes + int(sum(math.prod(tensor.shape) * a_weight for tensor in tensors))


def _finer_bytes(plan: ModelPlan, checkpoint: Checkpoint, options: EngineOptions) -> int:
    """What matrices take beyond that, which are finer than their tensors or are multiplied with a number."""
    a_weight = QUANTIZATIONS[options.quantization]
    more = {}
    for operation in plan.operations:
        for p in operation.projections if isinstance(operation, Linear) else ():
            if not p.fine and p.scale == 1:
                continue
            tensor = checkpoint.tensor(p.tensor)
            count = math.prod(tensor.shape)
            planned = count * a_weight if a_weight else _packed_bytes(tensor)
            own = FINE if p.fine and options.quantization != "f32" else a_weight or QUANTIZATIONS["q8"] or 0.0
            share = p.part.count / p.part.period if isinstance(p.part, Stripe) else 1.0
            more[p.tensor, p.part] = max(0.0, share * (own * count - planned))
    return round(sum(more.values()))


def _packed_bytes(tensor: Tensor) -> int:
    """Of its own format, about."""
    if tensor.unpack is not None and tensor.kind not in OTHER_PACKED:  # q8 of floats, else blocks with scales
        block = KINDS["Q8_0" if tensor.kind == "F32" else tensor.kind]
        return math.prod(tensor.shape) // block.block_size * block.block_bytes
    if tensor.kind not in OTHER_PACKED:
        return tensor.data.nbytes
    return int(math.prod(tensor.shape) * OTHER_PACKED[tensor.kind])
