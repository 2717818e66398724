"""A Mamba-2 layer up to its feed-forward part (Dao & Gu 2024), as models have it beside attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.delta_net import TAPS
from llm_serving.native.mamba import MambaHeads

ROWS, MIXED, FOUND = "x", "mixed", "found"  # buffers
_MOST_DIM = 512  # kMostMambaDim in src/mamba.hpp
_UNBOUNDED = [0.0, float("inf")]  # of steps


@dataclass(frozen=True, slots=True)
class MambaNames:
    """Whole tensor names with `{i}`."""

    inputs: str
    taps: str
    conv_bias: str | None
    rates: str
    bias: str
    skips: str
    norm: str | None
    output: str
    is_logarithm: bool


@dataclass(frozen=True, slots=True)
class MambaKeys:
    """What a config.json calls a layer's sizes."""

    heads: str = "mamba_n_heads"
    dim: str = "mamba_d_head"
    groups: str = "mamba_n_groups"
    state: str = "mamba_d_state"
    taps: str = "mamba_d_conv"
    conv_bias: str = "mamba_conv_bias"
    proj_bias: str = "mamba_proj_bias"


def mamba_buffers(heads: MambaHeads) -> dict[str, int]:
    return {MIXED: heads.width, FOUND: heads.inner}


def mamba_layer(
    index: int, input_norm: str, own: MambaNames, heads: MambaHeads, epsilons: tuple[float, float]
) -> tuple[ops.Operation, ...]:
    """Adds to the rows. `epsilons` are of the norm of rows and of that before the output."""
    return (
        ops.Quantize(ROWS, f"{input_norm.format(i=index)}.weight", epsilons[0]),
        ops.Linear(mamba_inputs(index, own, heads)),
        *mamba_behind(index, own, heads, epsilons[1]),
    )


def mamba_inputs(
    index: int, own: MambaNames, heads: MambaHeads, scales: tuple[float, ...] | None = None
) -> tuple[ops.Projection, ...]:
    """Of normed rows, to `MIXED`. `scales`: what output gates, x, B, C and steps are multiplied with."""
    name, shared = own.inputs.format(i=index), heads.groups * heads.state
    sizes: tuple[int, ...] = (heads.width - heads.count, heads.count)
    if scales is not None:
        sizes = (heads.inner, heads.inner, shared, shared, heads.count)
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(
        ops.Projection(
            name,
            MIXED,
            first,
            # How much a state fades is multiplied over all tokens: these few rows are fine.
            fine=first + size == heads.width,
            part=ops.Stripe(first, size, heads.width),
            scale=scale,
        )
        for first, size, scale in zip(firsts, sizes, scales or (1.0, 1.0), strict=True)
    )


def mamba_behind(index: int, own: MambaNames, heads: MambaHeads, epsilon: float) -> tuple[ops.Operation, ...]:
    """From `MIXED` on; adds to the rows."""

    def name(pattern: str) -> str:
        return pattern.format(i=index)

    return (
        ops.MambaInputs(MIXED, heads, name(own.taps), own.conv_bias and name(own.conv_bias), name(own.bias)),
        ops.MambaScan(MIXED, FOUND, heads, name(own.rates), name(own.skips), own.is_logarithm),
        ops.OutputGate(
            FOUND,
            MIXED,
            activation="silu",
            weight=own.norm and name(own.norm),
            head_dim=heads.inner // heads.groups,
            epsilon=epsilon,
            gate_first=True,
        ),
        ops.Linear((ops.Projection(name(own.output), ROWS),), accumulate=True),
    )


def mamba_heads(checkpoint: Checkpoint, keys: MambaKeys, inner: int | None = None) -> MambaHeads:
    """`inner` is what all heads have together, where a config.json says that for itself.

    Raises: CheckpointError for a size that is missing, or anything that the engine does not run.
    """
    if checkpoint.format == "gguf":

        def size(key: str) -> int:
            return gguf_keys.positive(checkpoint, f"ssm.{key}")

        taps, inner, count = size("conv_kernel"), size("inner_size"), size("time_step_rank")
        heads = MambaHeads(count, inner // count, size("group_count"), size("state_size"))
    else:
        config_json.require(checkpoint, keys.proj_bias, (False, None), False)
        _require_unbounded(checkpoint)
        taps, count = (config_json.positive(checkpoint, key) for key in (keys.taps, keys.heads))
        if checkpoint.metadata.get(keys.dim, "auto") == "auto" and inner is not None:
            dim = inner // count
        else:
            dim = config_json.positive(checkpoint, keys.dim)
        groups, state = (config_json.positive(checkpoint, key) for key in (keys.groups, keys.state))
        heads = MambaHeads(count, dim, groups, state)
    is_run = heads.dim % 16 == 0 and heads.state % 8 == 0 and 0 < max(heads.dim, heads.state) <= _MOST_DIM
    fits = inner in (None, heads.inner) and heads.inner % 32 == 0
    if taps != TAPS or heads.count % heads.groups or not is_run or not fits:
        raise CheckpointError(
            f"{heads.count} Mamba heads of size {heads.dim} in {heads.groups} groups, {inner or heads.inner} "
            f"in all, with states of {heads.state} behind a convolution of {taps} tokens, in "
            f"'{checkpoint.path}', is a shape that the engine does not run."
        )
    return heads


def mamba_names(checkpoint: Checkpoint, layer: str, keys: MambaKeys) -> MambaNames:
    """`layer` stands before the names of a directory. Raises: CheckpointError for an unknown setting."""
    if checkpoint.format == "gguf":
        layer = "blk.{i}."
        shifts = any(name.endswith(".ssm_conv1d.bias") for name in checkpoint.tensors)
        norms = any(name.endswith(".ssm_norm.weight") for name in checkpoint.tensors)
        return MambaNames(
            inputs=f"{layer}ssm_in.weight",
            taps=f"{layer}ssm_conv1d.weight",
            conv_bias=f"{layer}ssm_conv1d.bias" if shifts else None,
            rates=f"{layer}ssm_a",
            bias=f"{layer}ssm_dt.bias",
            skips=f"{layer}ssm_d",
            norm=f"{layer}ssm_norm.weight" if norms else None,
            output=f"{layer}ssm_out.weight",
            is_logarithm=False,
        )
    config_json.require(checkpoint, keys.conv_bias, (True, False), True)
    return MambaNames(
        inputs=f"{layer}in_proj.weight",
        taps=f"{layer}conv1d.weight",
        conv_bias=f"{layer}conv1d.bias" if checkpoint.metadata.get(keys.conv_bias, True) else None,
        rates=f"{layer}A_log",
        bias=f"{layer}dt_bias",
        skips=f"{layer}D",
        norm=f"{layer}norm.weight",
        output=f"{layer}out_proj.weight",
        is_logarithm=True,
    )


def _require_unbounded(checkpoint: Checkpoint) -> None:
    """Steps are not bounded. Newer files write infinity as an object."""
    given: Any = checkpoint.metadata.get("time_step_limit")
    if given is None:
        return
    plain = given
    if isinstance(given, list):
        plain = [each.get("__float__") if isinstance(each, dict) else each for each in given]
    if plain not in (_UNBOUNDED, [0.0, "Infinity"]):
        raise CheckpointError(
            f"'time_step_limit' in the config.json of '{checkpoint.path}' is {given!r}; "
            "supported: 0 to infinity."
        )
