"""From a Hugging Face directory to a running engine with its tokenizer and chat template."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from llm_serving.backends.causal_lm import CausalLM, require_safetensors
from llm_serving.backends.memory_need import DEFAULT_KV_BYTES, MemoryNeed, kv_share
from llm_serving.backends.transformers_backend.generate_runner import GenerateRunner
from llm_serving.backends.transformers_backend.paged_runner import (
    BLOCK_SIZE,
    LayerShape,
    PagedRunner,
    cache_name,
    layer_shapes,
)
from llm_serving.backends.transformers_backend.tokenizer import read_tokenizer
from llm_serving.engine.async_engine import AsyncEngine
from llm_serving.engine.protocol import EngineOptions, ModelRunner, RunnerLimits
from llm_serving.engine.sampler import NumpySampler
from llm_serving.errors import CheckpointError, InvalidRequest, ServingError
from llm_serving.native.cpu import cpu_budget, memory_limit_bytes

logger = logging.getLogger(__name__)

DTYPES = {"auto": "auto", "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
MAX_STEP_TOKENS = 1024
DEFAULT_CONTEXT = 2048  # of models that name no limit
PLANNED_KV_BYTES = 1 << 30  # beside other models, where nobody knows yet
WORKING_BYTES = 500 << 20  # interpreter, torch, activations: what is neither weights nor keys and values

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")


def load_causal_lm(directory: Path, options: EngineOptions, device: str = "auto") -> CausalLM:
    """Load a model and start its engine. Blocking; call it from a loader thread.

    `options.quantization` is the type of the weights: auto (the file's), f32, f16 or bf16; keys and values
    have it too.

    Raises: InvalidRequest (device, type), CheckpointError, ServingError when the memory does not suffice.
    """
    if options.kv_cache != "auto":
        raise InvalidRequest(
            "The transformers engine keeps keys and values in the type of the weights; leave it at auto.",
            "kv_cache",
        )
    place = torch_device(device)
    model = load_weights(transformers.AutoModelForCausalLM, directory, options.quantization, place)
    if place.type == "cpu":
        torch.set_num_threads(options.threads or cpu_budget().threads)
    tokenizer = read_tokenizer(directory, _eos_ids(model))
    runner = build_runner(model, options, place)
    return CausalLM(
        AsyncEngine(runner, NumpySampler(), tokenizer.token_bytes, options, str(place)),
        tokenizer,
        tokenizer.chat_template,
        {
            "architecture": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "batching": "continuous" if isinstance(runner, PagedRunner) else "one at a time",
        },
    )


def memory_need(directory: Path, device: str) -> MemoryNeed | None:
    """By the size of the files; None on a device with a memory of its own. Keys and values are not known
    before the model is loaded: one that gets `PLANNED_KV_BYTES` has a use for them.

    Raises: InvalidRequest for a device that is not there.
    """
    if torch_device(device).type != "cpu":
        return None
    weights = sum(file.stat().st_size for file in directory.glob("*.safetensors")) + WORKING_BYTES
    return MemoryNeed(weights, PLANNED_KV_BYTES, PLANNED_KV_BYTES, DEFAULT_KV_BYTES)


def torch_device(name: str) -> torch.device:
    """`auto` is the best there is. Raises: InvalidRequest for a device that this machine does not have."""
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else int(kind == "cpu" or (kind == "mps" and has_mps))
    if int(index or 0) >= count:
        there = ["cpu", *["mps"] * has_mps, *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InvalidRequest(
            f"torch finds no device '{name}' on this machine; there are: {', '.join(there)}.", "device"
        )
    return torch.device(name)


def load_weights(auto_class: Any, directory: Path, dtype: str, device: torch.device) -> Any:
    """A model in evaluation mode on its device: safetensors only, and no code from the directory.

    Raises: InvalidRequest for an unknown type; CheckpointError.
    """
    if dtype not in DTYPES:
        raise InvalidRequest(
            f"The transformers engine holds weights as {', '.join(DTYPES)}, not as '{dtype}'.", "quantization"
        )
    require_safetensors(directory)
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = auto_class.from_pretrained(
            str(directory),
            output_loading_info=True,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        # What is missing would be random numbers. Poolers are: nothing here reads their output.
        missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
        if missing:
            raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]!r}")
        return model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise ServingError(f"The weights of '{directory}' do not fit into the memory of {device}.") from error
    except Exception as error:  # damaged and unknown models make it fail with any error there is
        text = " ".join(str(error).split())[:300] or type(error).__name__
        if "trust_remote_code" in text:
            text = "the model needs Python code of its authors, which is never run."
        raise CheckpointError(f"{directory}: transformers cannot load this model: {text}") from error


def build_runner(model: Any, options: EngineOptions, device: torch.device) -> ModelRunner:
    """Page keys and values where the model has just these, otherwise run one sequence at a time.

    Raises: ServingError when the memory does not suffice for the context that was asked for.
    """
    context = _max_context(model.config, options.context_length)
    shapes, vocab_size = _probe(model, device)
    if shapes is None:
        logger.info("%s answers one request at a time: its state cannot be paged", type(model).__name__)
        return GenerateRunner(model, vocab_size, context, device)
    limits = RunnerLimits(
        vocab_size=vocab_size,
        block_size=BLOCK_SIZE,
        num_blocks=_num_blocks(model, shapes, options, context, device),
        max_step_tokens=MAX_STEP_TOKENS,
        max_sequences=options.max_concurrency,
        max_context=context,
        takes_drafts=False,  # logits beside drafts are rounded differently: answers would depend on them
    )
    return PagedRunner(model, shapes, limits, device)


def _probe(model: Any, device: torch.device) -> tuple[list[LayerShape] | None, int]:
    """What a model remembers of two tokens, and how many it chooses from."""
    ids = torch.zeros((1, 2), dtype=torch.int64, device=device)
    with torch.inference_mode():
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    return layer_shapes(getattr(out, cache_name(model), None)), int(out.logits.shape[-1])


def _max_context(config: Any, asked: int) -> int:
    text = config.get_text_config()
    known = next((value for key in _CONTEXT_KEYS if isinstance(value := getattr(text, key, None), int)), 0)
    if known <= 0:
        return asked or DEFAULT_CONTEXT
    return min(asked or known, known)


def _num_blocks(
    model: Any, shapes: Sequence[LayerShape], options: EngineOptions, context: int, device: torch.device
) -> int:
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    block = BLOCK_SIZE * sum(shape.num_bytes for shape in shapes)
    each = -(-context // BLOCK_SIZE)
    if options.memory_bytes:
        room = options.memory_bytes - weights - (WORKING_BYTES if device.type == "cpu" else 0)
    elif device.type == "cuda":
        room = int(0.8 * torch.cuda.mem_get_info(device)[0])
    else:
        room = kv_share(weights + WORKING_BYTES, memory_limit_bytes())
    blocks = min(each * options.max_concurrency, room // block)
    # A context that nobody asked for gives way; the scheduler then promises no more than the blocks hold.
    if blocks < (each if options.context_length else 2):
        need = (weights + WORKING_BYTES + each * block) >> 20
        raise ServingError(
            f"Not enough memory on {device} for one sequence of {context} tokens: about {need} MiB are "
            "needed. Raise --memory or lower --context-length."
        )
    return int(blocks)


def _eos_ids(model: Any) -> list[int]:
    eos = model.generation_config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
