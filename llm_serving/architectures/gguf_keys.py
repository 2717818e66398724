"""Typed reading of a GGUF file's hyperparameters, the keys that begin with the architecture's name."""

from __future__ import annotations

from llm_serving.checkpoints import Checkpoint, dequantize
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.rope import are_factors, yarn_factors, yarn_magnitude

_NEAR, _FAR = "rope_factors_short.weight", "rope_factors_long.weight"
_POOLING = {0: None, 1: "mean", 2: "cls", 3: "last"}  # LLAMA_POOLING_TYPE_*; 0 is none in particular


def classifier_pooling(checkpoint: Checkpoint, default: str) -> str:
    """How the row comes about that a classifier reads. Raises: CheckpointError for an unknown kind."""
    kind = checkpoint.hyper("classifier.pooling_type")
    if kind is not None and kind not in (1, 2):
        raise problem(checkpoint, "classifier.pooling_type", kind, "supported: 1 and 2")
    return default if kind is None else str(_POOLING[kind])


def require_gguf(checkpoint: Checkpoint) -> None:
    """Raises: CheckpointError for a directory, of a family whose directories come with code of their own."""
    if checkpoint.format != "gguf":
        raise CheckpointError(
            f"'{checkpoint.path}' is a directory of the family '{checkpoint.architecture}'; "
            "the engine runs its GGUF files."
        )


def positive(checkpoint: Checkpoint, key: str, default: int | None = None) -> int:
    """Raises: CheckpointError unless the value is a positive integer."""
    value = checkpoint.hyper(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise problem(checkpoint, key, value, "a positive integer is needed")
    return value


def is_zero(checkpoint: Checkpoint, key: str) -> bool:
    """Whether a file says nothing or 0, and not a list of numbers or another."""
    value = checkpoint.hyper(key, 0)
    return isinstance(value, int) and value == 0


def num_layers(checkpoint: Checkpoint) -> int:
    """Raises: CheckpointError for more than there can be: all are planned before any is looked for."""
    count = positive(checkpoint, "block_count")
    if count > len(checkpoint.tensors):
        raise problem(checkpoint, "block_count", count, f"there are {len(checkpoint.tensors)} tensors")
    return count


def without_further(checkpoint: Checkpoint, layers: int) -> int:
    """How many layers are left without the last ones, which predict a token more (MTP)."""
    further = checkpoint.hyper("nextn_predict_layers", 0)
    return layers - further if isinstance(further, int) and 0 < further < layers else layers


def number(checkpoint: Checkpoint, key: str, default: float) -> float:
    """Raises: CheckpointError unless the value is a number > 0."""
    value = checkpoint.hyper(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise problem(checkpoint, key, value, "a positive number is needed")
    return float(value)


def pooling(checkpoint: Checkpoint, default: str, *, ranked: str | None = None) -> str:
    """How a text's row comes of its tokens'; `ranked` is how if the file has a head to rank with.

    Raises: CheckpointError for a kind that is not known, or a ranking model without its head.
    """
    if ranked is not None:
        return ranked
    kind = checkpoint.hyper("pooling_type", 0)
    if isinstance(kind, bool) or not isinstance(kind, int) or kind not in _POOLING:
        raise problem(checkpoint, "pooling_type", kind, "supported: 0 to 3, and 4 with a classifier")
    return _POOLING[kind] or default


def rope(checkpoint: Checkpoint, head_dim: int, theta: float = 10000.0, *, truncate: bool = True) -> ops.Rope:
    """Rotary positions; `theta` is the base where the file names none, `truncate` as in `yarn_factors`.

    Raises: CheckpointError for a scaling that is not supported, or numbers that are not possible.
    """
    scaling = checkpoint.hyper("rope.scaling.type", "none")
    if scaling not in ("none", "linear", "yarn"):
        raise CheckpointError(
            f"Rotary scaling '{scaling}' in '{checkpoint.path}' is not supported; none, linear and yarn are."
        )
    factor = number(checkpoint, "rope.scaling.factor", 1.0) if scaling != "none" else 1.0
    base = number(checkpoint, "rope.freq_base", theta)
    rotated = positive(checkpoint, "rope.dimension_count", head_dim)
    if rotated % 2 or rotated > head_dim:
        raise CheckpointError(
            f"Rotating {rotated} of {head_dim} dimensions in '{checkpoint.path}' is not possible."
        )
    if scaling == "yarn":
        if base <= 1:
            raise problem(checkpoint, "rope.freq_base", base, "a number above 1 is needed")
        length = positive(checkpoint, "rope.scaling.original_context_length")
        fast = number(checkpoint, "rope.scaling.yarn_beta_fast", 32.0)
        slow = number(checkpoint, "rope.scaling.yarn_beta_slow", 1.0)
        magnitude = number(checkpoint, "rope.scaling.attn_factor", 1.0) * yarn_magnitude(factor)
        if checkpoint.hyper("rope.scaling.yarn_log_multiplier"):
            magnitude /= yarn_magnitude(factor, number(checkpoint, "rope.scaling.yarn_log_multiplier", 1.0))
        factors = yarn_factors(base, rotated, factor, length, fast, slow, truncate)
        return ops.Rope(base, rotated, factors=factors, magnitude=magnitude)
    if _FAR in checkpoint.tensors:
        return ops.Rope(
            base,
            rotated,
            factors=_factors(checkpoint, _FAR, rotated),
            magnitude=number(checkpoint, "rope.scaling.attn_factor", 1.0),
            near_factors=_factors(checkpoint, _NEAR, rotated),
            near=positive(
                checkpoint,
                "rope.scaling.original_context_length",
                checkpoint.hyper("context_length"),  # which some files mean
            ),
        )
    tensor = "rope_freqs.weight" if "rope_freqs.weight" in checkpoint.tensors else None
    return ops.Rope(base, rotated, factor, tensor)


def _factors(checkpoint: Checkpoint, name: str, rotated: int) -> tuple[float, ...]:
    """What LongRoPE divides frequencies by. Raises: CheckpointError unless there is one for each."""
    factors: list[float] = dequantize(checkpoint.tensor(name)).reshape(-1).tolist()
    if not are_factors(factors, rotated):
        raise CheckpointError(
            f"Tensor '{name}' in '{checkpoint.path}' does not fit {rotated} rotated dimensions."
        )
    return tuple(factors)


def problem(checkpoint: Checkpoint, key: str, value: object, wanted: str) -> CheckpointError:
    """What to raise for a value under `key` that is not `wanted`."""
    return CheckpointError(
        f"'{checkpoint.architecture}.{key}' in '{checkpoint.path}' is {value!r}; {wanted}."
    )
