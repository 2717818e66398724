"""From a Hugging Face directory to a running vLLM with our tokenizer and chat template."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from vllm import AsyncEngineArgs
from vllm.config import StructuredOutputsConfig
from vllm.platforms import current_platform
from vllm.tokenizers import get_tokenizer
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.structured_output.backend_guidance import GuidanceBackend

from llm_serving.backends.causal_lm import CausalLM, require_safetensors
from llm_serving.backends.transformers_backend.tokenizer import read_tokenizer
from llm_serving.backends.vllm_backend.arguments import engine_arguments, memory_arguments
from llm_serving.backends.vllm_backend.engine import VLLMEngine
from llm_serving.backends.vllm_backend.loop_thread import LoopThread
from llm_serving.backends.vllm_backend.step_stats import StepStats
from llm_serving.checkpoints.directory_files import read_directory_tokenizer
from llm_serving.checkpoints.directory_tokenizer import DirectoryTokenizer
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, ServingError
from llm_serving.native.cpu import memory_limit_bytes

logger = logging.getLogger(__name__)


def load_causal_lm(directory: Path, options: EngineOptions, device: str = "auto") -> CausalLM:
    """Load a model and start vLLM's processes. Blocking; call it from a loader thread.

    `options.quantization` is the type of the weights: auto (vLLM's choice: the file's, f32 as 16 bits), f32,
    f16 or bf16. Weights that are quantized in the directory stay so.

    Raises: InvalidRequest (device, type, memory), CheckpointError, ServingError when vLLM does not start.
    """
    require_safetensors(directory)
    platform = str(current_platform.device_type or "")
    form_end = _form_end(directory)
    takes_forms = form_end is not None
    arguments = engine_arguments(directory, options, device, platform, takes_forms=takes_forms)
    arguments["structured_outputs_config"] = StructuredOutputsConfig(backend="guidance")
    weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    total = int(current_platform.get_device_total_memory(*arguments.get("device_ids", [])))
    left = memory_limit_bytes() - weights
    arguments |= memory_arguments(options.memory_bytes, total, platform, left)
    args, model = _configure(directory, arguments, options.context_length)
    tokenizer = _read_tokenizer(directory, model)
    steps = StepStats()
    thread = LoopThread("vllm")
    try:
        llm = thread.run(_start(args, steps))
    except BaseException as error:
        thread.stop()
        if not isinstance(error, Exception):
            raise
        raise ServingError(f"vLLM does not start with '{directory}': {_line(error)}") from error
    return CausalLM(
        VLLMEngine(llm, thread, steps, tokenizer.token_bytes, options, form_end=form_end),
        tokenizer,
        tokenizer.chat_template,
        {
            "architecture": str(model.architecture),
            "dtype": str(model.dtype).removeprefix("torch."),
            "batching": "continuous",
        },
    )


async def _start(args: AsyncEngineArgs, steps: StepStats) -> AsyncLLM:
    return AsyncLLM.from_engine_args(
        args,
        usage_context=UsageContext.OPENAI_API_SERVER,  # its sizes of batches are a server's
        stat_loggers=[lambda config, index: steps],
    )


def _configure(directory: Path, arguments: dict[str, Any], context: int) -> tuple[AsyncEngineArgs, Any]:
    """Arguments, and vLLM's description of the model. A context that was asked for is at most the model's."""
    try:
        args = AsyncEngineArgs(**arguments)
        model = args.create_model_config()
    except Exception as error:  # damaged and unknown models make it fail with any error there is
        raise CheckpointError(f"{directory}: vLLM cannot load this model: {_line(error)}") from error
    if context:
        args.max_model_len = min(context, int(model.max_model_len))
    return args, model


def _form_end(directory: Path) -> int | None:
    """The token that answers of a form end with, by the tokenizer vLLM reads; None if it cannot bind them."""
    try:
        tokenizer = get_tokenizer(str(directory), trust_remote_code=False)
    except Exception as error:  # unknown ones make it fail with any error there is
        logger.warning(
            "vLLM cannot read the tokenizer of '%s' and binds no answers: %s", directory, _line(error)
        )
        return None
    is_able = GuidanceBackend.is_tokenizer_supported(tokenizer)
    end: int | None = tokenizer.eos_token_id if is_able else None
    return end


def _read_tokenizer(directory: Path, model: Any) -> DirectoryTokenizer:
    """As the native engine has it; where that says too little, as transformers builds it."""
    try:
        return read_directory_tokenizer(directory)
    except CheckpointError:
        eos = model.try_get_generation_config().get("eos_token_id")
        return read_tokenizer(directory, [] if eos is None else [eos] if isinstance(eos, int) else eos)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if "trust_remote_code" in text:
        return "the model needs Python code of its authors, which is never run."
    return text
