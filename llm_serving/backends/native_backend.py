"""Our own engine on the CPU: checkpoint in, running `AsyncEngine` out."""

from __future__ import annotations

import logging
import math

from llm_serving.architectures import describe
from llm_serving.backends.memory_need import MemoryNeed, kv_share
from llm_serving.backends.tier import open_tier
from llm_serving.checkpoints import Checkpoint
from llm_serving.engine.async_engine import AsyncEngine
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import InvalidRequest, ServingError
from llm_serving.native.cpu import cpu_budget, memory_limit_bytes
from llm_serving.native.ops import ModelPlan
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.runner import BLOCK_SIZE, NativeRunner, kv_block_bytes, state_bytes
from llm_serving.native.sampler import NativeSampler

logger = logging.getLogger(__name__)

MAX_STEP_TOKENS = 512
WORKING_BYTES = 150 << 20  # interpreter, buffers, tokenizer: what is neither weights nor KV
LEAST_SNAPSHOTS = 8  # of the states of recurrent layers
LEAST_CONTEXT = 512  # tokens: with fewer, a server is of no use
# Bytes a weight takes in memory, at most; None: about what it takes in the file.
QUANTIZATIONS = {"auto": None, "q4": 0.75, "q8": 1.0625, "f32": 4.0}
KV_FORMATS = {"auto": "q16", "q16": "q16", "q8": "q8"}


def build_runner(checkpoint: Checkpoint, options: EngineOptions, *, isa: str = "auto") -> NativeRunner:
    """Load weights and size the KV pool.

    Raises: CheckpointError; InvalidRequest for a quantisation or KV cache that is not to be had;
    ServingError when the memory bound leaves no room for one sequence.
    """
    _check(options)
    plan = describe(checkpoint)
    context = _context(plan, options)
    num_blocks, num_states = _num_blocks(plan, checkpoint, options, context)
    if num_blocks * BLOCK_SIZE < context:
        logger.warning(
            "A conversation may hold %d tokens, for more of the model's %d there is no memory. "
            "--memory gives more, and --kv-cache q8 nearly doubles what it holds.",
            num_blocks * BLOCK_SIZE,
            context,
        )
        context = num_blocks * BLOCK_SIZE
    return NativeRunner(
        plan,
        checkpoint,
        num_blocks=num_blocks,
        num_states=num_states,
        max_context=context,
        max_step_tokens=MAX_STEP_TOKENS,
        max_sequences=options.max_concurrency,
        threads=options.threads or cpu_budget().threads,
        isa=isa,
        weight_format=options.quantization,
        kv_format=KV_FORMATS[options.kv_cache],
        packed=PackedCache(options.packed_dir, options.packed_bytes) if options.packed_dir else None,
    )


def memory_need(checkpoint: Checkpoint, options: EngineOptions) -> MemoryNeed:
    """What `build_runner` will ask for. Raises: CheckpointError, InvalidRequest as `build_runner`."""
    _check(options)
    plan = describe(checkpoint)
    context = _context(plan, options)
    a_block = kv_block_bytes(plan, KV_FORMATS[options.kv_cache])
    conversation = -(-context // BLOCK_SIZE) * a_block
    two_states, all_states = 2 * state_bytes(plan), _wanted_states(plan, options) * state_bytes(plan)
    return MemoryNeed(
        _weight_bytes(checkpoint, options) + WORKING_BYTES,
        -(-_least_context(context, options) // BLOCK_SIZE) * a_block + two_states,
        conversation + max(two_states, min(all_states, conversation)),  # up to half of it are states
        conversation * options.max_concurrency + all_states,
    )


def _check(options: EngineOptions) -> None:
    if options.quantization not in QUANTIZATIONS:
        raise InvalidRequest(
            f"The native engine has weights as {', '.join(QUANTIZATIONS)}, not as '{options.quantization}'.",
            "quantization",
        )
    if options.kv_cache not in KV_FORMATS:
        raise InvalidRequest(
            f"The native engine keeps keys and values as {', '.join(KV_FORMATS)}, "
            f"not as '{options.kv_cache}'.",
            "kv_cache",
        )


def _context(plan: ModelPlan, options: EngineOptions) -> int:
    return min(options.context_length or plan.max_context, plan.max_context)


def _least_context(context: int, options: EngineOptions) -> int:
    """A context that nobody asked for gives way."""
    return context if options.context_length else min(context, LEAST_CONTEXT)


def _wanted_states(plan: ModelPlan, options: EngineOptions) -> int:
    """A slot for each sequence, and as many for snapshots."""
    return 2 * max(options.max_concurrency, LEAST_SNAPSHOTS) if plan.state_floats else 0


def _num_blocks(
    plan: ModelPlan, checkpoint: Checkpoint, options: EngineOptions, context: int
) -> tuple[int, int]:
    """Blocks for keys and values, and slots for states: in up to half of the room, but two at least."""
    block = kv_block_bytes(plan, KV_FORMATS[options.kv_cache])
    blocks_per_sequence = -(-context // BLOCK_SIZE)
    wanted = blocks_per_sequence * options.max_concurrency
    weights = _weight_bytes(checkpoint, options) + WORKING_BYTES
    given = options.memory_bytes
    room = given - weights if given else kv_share(weights, memory_limit_bytes())
    least = _least_context(context, options)
    states = _wanted_states(plan, options)
    if states:
        most = min(room // 2, room - -(-least // BLOCK_SIZE) * block)
        states = min(states, max(2, most // state_bytes(plan)))
        weights += states * state_bytes(plan)
        room -= states * state_bytes(plan)
    blocks = min(wanted, room // block)
    if blocks * BLOCK_SIZE < least:
        need = (weights + -(-least // BLOCK_SIZE) * block) >> 20
        raise ServingError(
            f"Not enough memory for one sequence of {least} tokens: about {need} MiB are needed. "
            "Raise --memory or lower --context-length."
        )
    return int(blocks), int(states)


def _weight_bytes(checkpoint: Checkpoint, options: EngineOptions) -> int:
    tensors = checkpoint.tensors.values()
    a_weight = QUANTIZATIONS[options.quantization]
    if a_weight is None:
        return sum(tensor.data.nbytes for tensor in tensors)
    return int(sum(math.prod(tensor.shape) * a_weight for tensor in tensors))


def load(checkpoint: Checkpoint, token_bytes: list[bytes], options: EngineOptions) -> AsyncEngine:
    """Load a model and start its engine. Blocking; call it from a loader thread."""
    runner = build_runner(checkpoint, options)
    device = f"cpu ({runner.isa}, {runner.threads} threads, {runner.kv_format} KV cache)"
    sampler = NativeSampler(runner.threads, runner.isa)
    tier = None
    if not runner.limits.num_states:
        tier = open_tier(runner, runner.content, options)
    elif options.prefix_dir is not None and options.prefix_bytes:
        logger.info("Prefixes are not kept on disk: this model has recurrent layers, whose states are not.")
    return AsyncEngine(runner, sampler, token_bytes, options, device, tier, runner.prepare)
