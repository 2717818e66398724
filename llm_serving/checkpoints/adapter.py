"""Low-rank adapters as PEFT saves them: `adapter_config.json` beside `adapter_model.safetensors`.

LoRA (Hu et al. 2021), with the scales of rsLoRA (Kalajdzievski 2023) if asked for. Modules keep the names
they have in the base model's own code. The files are not trusted: all is bounded by their size, and pickles
are not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.checkpoints.json_files import read_object
from llm_serving.checkpoints.safetensors import read_safetensors
from llm_serving.errors import CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_RANK = 512
_PICKLE = "adapter_model.bin"
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<which>[AB])(?:\.[^.]+)?\.weight")
_DOMAIN = b"lora adapter"
# What changes more than two matrices can say, or the base model itself.
_REFUSED = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")  # which leave the base as it is


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What an adapter adds to a module: y += scale * (x @ down.T) @ up.T."""

    down: Tensor  # [rank, inputs]
    up: Tensor  # [outputs, rank]
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter on disk, opened; `digest`, 16 bytes, names what it does to a model, not where it is."""

    path: str
    modules: Mapping[str, LowRank]  # by names such as `model.layers.0.self_attn.q_proj`
    digest: bytes


def read_adapter(directory: Path) -> Adapter:
    """Open a directory. Tensors are views of the mapped file.

    Raises: CheckpointError, naming the file and the key or tensor that is wrong or not supported.
    """
    config_path, path = directory / CONFIG, directory / WEIGHTS
    if not config_path.is_file():
        raise CheckpointError(
            f"{config_path}: there is no such file; an adapter is a directory that PEFT saved."
        )
    if not path.is_file():
        raise _missing_weights(directory)
    config = read_object(config_path)
    _check(config_path, config)
    file = read_safetensors(path)
    if file.skipped:
        name, dtype = next(iter(file.skipped.items()))
        raise CheckpointError(
            f"{path}: tensor {name[:200]!r} is of {dtype}; those of adapters are F32, F16 or BF16."
        )
    modules = {
        module: _low_rank(path, module, pair, config_path, config)
        for module, pair in sorted(_pairs(path, file.tensors).items())
    }
    if not modules:
        raise CheckpointError(f"{path}: there is no tensor in it.")
    return Adapter(str(directory), modules, _digest(modules))


def _missing_weights(directory: Path) -> CheckpointError:
    if (directory / _PICKLE).is_file():
        return CheckpointError(
            f"{directory / _PICKLE}: is a Python pickle, which can run any code, and is not loaded. Save the "
            f"adapter as safetensors: PeftModel.save_pretrained(folder) writes '{WEIGHTS}'."
        )
    return CheckpointError(f"{directory / WEIGHTS}: there is no such file.")


def _check(path: Path, config: dict[str, Any]) -> None:
    """Raises: CheckpointError for whatever is more than low-rank matrices beside a model as it is."""

    def refuse(key: str, allowed: str) -> CheckpointError:
        shown = repr(config.get(key))[:80]
        return CheckpointError(f"{path}: '{key}' is {shown}, which is not supported; supported: {allowed}.")

    if config.get("peft_type") != "LORA":
        raise refuse("peft_type", "LORA")
    for key in _REFUSED:
        if config.get(key):
            raise refuse(key, "null or false")
    if config.get("bias", "none") != "none":
        raise refuse("bias", "none")
    beginning = config.get("init_lora_weights", True)
    if not any(beginning is plain or beginning == plain for plain in _PLAIN_BEGINNINGS):
        raise CheckpointError(
            f"{path}: 'init_lora_weights' is {str(beginning)[:80]!r}: the base was changed, too. Save the "
            "adapter as one of the model as it was, with PEFT's path_initial_model_for_weight_conversion."
        )


def _pairs(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Both matrices of each module, by "A" and "B"."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{path}: tensor {name[:200]!r} is not one of '….lora_A.weight' and '….lora_B.weight'; whole "
                "weights, embeddings and biases are not supported."
            )
        pair = pairs.setdefault(match["module"], {})
        if match["which"] in pair:
            raise CheckpointError(f"{path}: there are two of tensor {name[:200]!r}, under different names.")
        pair[match["which"]] = tensor
    return pairs


def _low_rank(
    path: Path, module: str, pair: dict[str, Tensor], config_path: Path, config: dict[str, Any]
) -> LowRank:
    if len(pair) < 2:
        other = "lora_B" if "A" in pair else "lora_A"
        raise CheckpointError(f"{path}: module {module[:200]!r} has no '{other}.weight'.")
    down, up = pair["A"], pair["B"]
    if len(down.shape) != 2 or len(up.shape) != 2 or up.shape[1] != down.shape[0]:
        raise CheckpointError(
            f"{path}: tensors {down.name[:200]!r} of shape {down.shape} and {up.name[:200]!r} of shape "
            f"{up.shape} are not [rank, inputs] and [outputs, rank]."
        )
    if down.shape[0] > MOST_RANK:
        raise CheckpointError(f"{path}: {down.name[:200]!r} has a rank of {down.shape[0]}, over {MOST_RANK}.")
    alpha = _alpha(config_path, config, module)
    rank = down.shape[0]
    return LowRank(down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _alpha(path: Path, config: dict[str, Any], module: str) -> float:
    """`lora_alpha`, or what `alpha_pattern` has for this module. Its keys are patterns of a name's end."""
    key, alpha = "lora_alpha", config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: 'alpha_pattern' is not an object.")
    for pattern, value in patterns.items():
        try:
            is_meant = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise CheckpointError(
                f"{path}: {pattern[:80]!r} of 'alpha_pattern' is no pattern: {error}."
            ) from None
        if is_meant:
            key, alpha = "alpha_pattern", value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise CheckpointError(f"{path}: '{key}' has {alpha!r} for {module[:200]!r}, which is no number.")
    return float(alpha)


def _digest(modules: Mapping[str, LowRank]) -> bytes:
    digest = blake2b(digest_size=16, person=_DOMAIN)
    for module, low in modules.items():
        for tensor in (low.down, low.up):
            digest.update(repr((module, low.scale, tensor.kind, tensor.shape)).encode())
            digest.update(tensor.data.data)
    return digest.digest()
