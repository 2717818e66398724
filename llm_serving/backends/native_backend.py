"""Our own engine on the CPU: checkpoint in, running `AsyncEngine` out."""

from __future__ import annotations

import logging

from llm_serving.architectures import adapted, describe
from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.backends.native_draft import Draft, check_states, check_vocabulary, open_draft
from llm_serving.backends.native_memory import (
    KV_FORMATS,
    QUANTIZATIONS,
    MemoryPlan,
    blocks_of,
    memory_plan,
    pool_sizes,
)
from llm_serving.backends.tier import open_tier
from llm_serving.checkpoints import Checkpoint, read_adapter
from llm_serving.engine.async_engine import AsyncEngine
from llm_serving.engine.draft_model import DraftModel
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.speculation import MAX_DRAFTING
from llm_serving.errors import CheckpointError, InvalidRequest
from llm_serving.native.adapters import Adapted
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.ops import ModelPlan
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.runner import BLOCK_SIZE, NativeRunner
from llm_serving.native.sampler import NativeSampler

logger = logging.getLogger(__name__)

MAX_STEP_TOKENS = 512


def build_runner(checkpoint: Checkpoint, options: EngineOptions, *, isa: str = "auto") -> NativeRunner:
    """Load weights and size the KV pool, with room beside it for the draft model that the options name.

    Raises: CheckpointError; InvalidRequest for a quantisation or KV cache that is not to be had, or a draft
    model that cannot be used; ServingError when the memory bound leaves no room for one sequence.
    """
    _check(options)
    plan = describe(checkpoint)
    adapters = _adapters(plan, checkpoint, options)
    memory = memory_plan(plan, checkpoint, options, open_draft(options), adapters)
    num_blocks, num_states = pool_sizes(memory, options)
    context = memory.context
    if num_blocks * BLOCK_SIZE < context:
        logger.warning(
            "A conversation may hold %d tokens, for more of the model's %d there is no memory. "
            "--memory gives more, and --kv-cache q8 nearly doubles what it holds (q4: nearly four times).",
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
        max_step_tokens=max(MAX_STEP_TOKENS, 2 * plan.given_span),
        max_sequences=options.max_concurrency,
        threads=options.threads or cpu_budget().threads,
        isa=isa,
        weight_format=options.quantization,
        kv_format=KV_FORMATS[options.kv_cache],
        packed=_packed(options),
        adapters=adapters,
    )


def build_draft_runner(draft: Draft, options: EngineOptions, large: NativeRunner) -> NativeRunner:
    """The runner of a draft model: as many threads as the large model has, and a context as long, if its own
    model was trained for it. Raises: CheckpointError.
    """
    context = min(draft.plan.max_context, large.limits.max_context)
    return NativeRunner(
        draft.plan,
        draft.checkpoint,
        num_blocks=MAX_DRAFTING * blocks_of(context),
        max_context=context,
        max_step_tokens=MAX_STEP_TOKENS,
        max_sequences=MAX_DRAFTING,
        threads=large.threads,
        isa=large.isa,
        weight_format=options.quantization,
        kv_format=large.kv_format,
        packed=_packed(options),
    )


def memory_need(checkpoint: Checkpoint, options: EngineOptions) -> MemoryNeed:
    """What `load` will ask for. Raises: CheckpointError, InvalidRequest as `build_runner`."""
    _check(options)
    plan = describe(checkpoint)
    adapters = _adapters(plan, checkpoint, options)
    memory: MemoryPlan = memory_plan(plan, checkpoint, options, open_draft(options), adapters)
    return memory.need(options.max_concurrency)


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


def _adapters(plan: ModelPlan, checkpoint: Checkpoint, options: EngineOptions) -> list[Adapted]:
    adapters = []
    for path in options.adapters:
        try:
            adapters.append(adapted(checkpoint, plan, read_adapter(path)))
        except CheckpointError as error:
            raise CheckpointError(f"Adapter '{path.name}': {error}") from error
    return adapters


def _packed(options: EngineOptions) -> PackedCache | None:
    return PackedCache(options.packed_dir, options.packed_bytes) if options.packed_dir else None


def load(checkpoint: Checkpoint, token_bytes: list[bytes], options: EngineOptions) -> AsyncEngine:
    """Load a model, and its draft model if there is one, and start its engine. Blocking; call it from a
    loader thread.
    """
    draft = open_draft(options)
    if draft is not None:
        check_states(draft, describe(checkpoint))
        check_vocabulary(draft, checkpoint, token_bytes)  # before any weight is read
    runner = build_runner(checkpoint, options)
    sampler = NativeSampler(runner.threads, runner.isa)
    prepare, draft_model = runner.prepare, None
    if draft is not None:
        draft_runner = build_draft_runner(draft, options, runner)
        draft_model = DraftModel(draft_runner, sampler, runner.limits.vocab_size)

        def prepare() -> bool:
            return runner.prepare() or draft_runner.prepare()

    device = f"cpu ({runner.isa}, {runner.threads} threads, {runner.kv_format} KV cache)"
    tier = None
    if not runner.limits.num_states:
        tier = open_tier(runner, runner.content, options)
    elif options.prefix_dir is not None and options.prefix_bytes:
        logger.info("Prefixes are not kept on disk: this model has recurrent layers, whose states are not.")
    return AsyncEngine(runner, sampler, token_bytes, options, device, tier, prepare, draft_model)
