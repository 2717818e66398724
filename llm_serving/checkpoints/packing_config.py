"""How a directory's weights are packed: by config.json, or what NVIDIA's modelopt writes beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_serving.checkpoints.bitnet import METHOD, problem_of_bitnet
from llm_serving.checkpoints.json_files import read_object

MODELOPT = "hf_quant_config.json"
METHODS = (
    "gptq",
    "awq",
    "auto-round",
    "compressed-tensors",
    "fp8",
    "fbgemm_fp8",
    "modelopt",
    "mxfp4",
    "bitsandbytes",
    METHOD,
)


def read_packing(config: Mapping[str, Any], folder: Path) -> Any:
    """The `quantization_config` of config.json, whatever it is; falsy where nothing is packed.

    Where an older file tells its method otherwise, `quant_method` is there all the same.

    Raises: CheckpointError if modelopt's file cannot be read.
    """
    packing = config.get("quantization_config")
    if not packing and (folder / MODELOPT).is_file():
        told = read_object(folder / MODELOPT).get("quantization")
        is_packed = isinstance(told, Mapping) and told.get("quant_algo")
        return {**told, "quant_method": "modelopt"} if is_packed and isinstance(told, Mapping) else None
    if not isinstance(packing, Mapping) or "quant_method" in packing:
        return packing
    is_ours = packing.get("load_in_4bit") or packing.get("load_in_8bit")
    return {**packing, "quant_method": "bitsandbytes"} if is_ours else packing


def problem_of(packing: Any) -> str | None:
    """What is to be told of packed weights that are not read; None where they are."""
    if not packing:
        return None
    if not isinstance(packing, Mapping):
        return "'quantization_config' is no object."
    method = packing.get("quant_method")
    if method not in METHODS:
        return f"'quantization_config' is of {method!r}; weights packed by {', '.join(METHODS)} are read."
    if method == METHOD:
        return problem_of_bitnet(packing)
    layout = str(packing.get("version", "gemm")).lower()
    if method == "awq" and layout != "gemm":
        return f"AWQ's layout {layout!r} ('version' of 'quantization_config') is not read; 'gemm' is."
    if packing.get("transform_config"):
        return "'transform_config' of 'quantization_config' is not read: activations would have to be turned."
    return None


def left_over(names: Mapping[str, str]) -> str | None:
    """What is to be told of tensors, dtype by name, that nothing was made of and that weights need."""
    for name, dtype in names.items():
        if dtype not in ("F32", "F16", "BF16") and name.endswith((".weight", ".qweight", ".weight_packed")):
            return f"Tensor '{name}' of {dtype} is packed in a form that is not read."
        if name.endswith(".pre_quant_scale"):
            return f"Tensor '{name}' is not read: activations would have to be multiplied with it."
    return None
