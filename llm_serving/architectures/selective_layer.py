"""A layer of Mamba's first version up to its feed-forward part, if it has one (Gu & Dao 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.delta_net import TAPS
from llm_serving.native.selective_scan import Channels

ROWS = "x"  # buffers
_CONV, _GATES, _RANK, _BOTH, _STEPS, _FOUND = "conv", "gates", "rank", "both", "steps", "found"
_MOST_STATE, _MOST_RANK = 512, 1 << 16  # kMostSelectiveState in src/selective_scan.hpp; of steps


@dataclass(frozen=True, slots=True)
class SelectiveNames:
    """Whole tensor names with `{i}`; `norms` are those of steps, B and C."""

    inputs: str
    taps: str
    conv_bias: str | None
    both: str  # steps of a low rank, B and C
    steps: str
    bias: str
    rates: str
    skips: str
    output: str
    is_logarithm: bool
    norms: tuple[str, str, str] | None = None


@dataclass(frozen=True, slots=True)
class SelectiveSizes:
    """`rank` is that of steps; `epsilon` of the norms of steps, B and C, if they are normed."""

    channels: Channels
    rank: int
    epsilon: float | None = None

    @property
    def padding(self) -> int:
        """Columns of zeros behind a row of steps, up to a multiple of 32."""
        return -self.rank % 32


@dataclass(frozen=True, slots=True)
class SelectiveKeys:
    """What a config.json calls a layer's sizes."""

    state: str = "state_size"
    taps: str = "conv_kernel"
    rank: str = "time_step_rank"
    expand: str = "expand"
    inner: str | None = "intermediate_size"  # if that is theirs
    conv_bias: str = "use_conv_bias"
    proj_bias: str = "use_bias"


def selective_buffers(sizes: SelectiveSizes) -> dict[str, int]:
    count = sizes.channels.count
    return {
        _CONV: count,
        _GATES: count,
        _RANK: sizes.rank + sizes.padding,
        _BOTH: 2 * sizes.channels.state,
        _STEPS: count,
        _FOUND: count,
    }


def selective_layer(
    index: int, input_norm: str, own: SelectiveNames, sizes: SelectiveSizes, epsilon: float
) -> tuple[ops.Operation, ...]:
    """Adds to the rows. `epsilon` is of the norm of rows."""

    def name(pattern: str) -> str:
        return pattern.format(i=index)

    channels, rank, padding = sizes.channels, sizes.rank, sizes.padding
    count, behind = channels.count, sizes.rank + 2 * channels.state
    inputs, both = name(own.inputs), name(own.both)
    # How much a state fades is multiplied over all tokens: what that comes from, and B and C, is fine.
    steps = ops.Stripe(0, count, count, zeros=(0, padding))
    return (
        ops.Quantize(ROWS, f"{input_norm.format(i=index)}.weight", epsilon),
        ops.Linear(
            (
                ops.Projection(inputs, _CONV, part=ops.Stripe(0, count, 2 * count)),
                ops.Projection(inputs, _GATES, part=ops.Stripe(count, count, 2 * count)),
            )
        ),
        ops.ShortConv(_CONV, name(own.taps), own.conv_bias and name(own.conv_bias)),
        ops.Quantize(_CONV),
        ops.Linear(
            (
                ops.Projection(both, _RANK, fine=True, part=ops.Stripe(0, rank, behind, zeros=(padding, 0))),
                ops.Projection(both, _BOTH, fine=True, part=ops.Stripe(rank, behind - rank, behind)),
            )
        ),
        *_norms(index, own, sizes),
        ops.Quantize(_RANK),
        ops.Linear((ops.Projection(name(own.steps), _STEPS, bias=name(own.bias), part=steps),)),
        ops.SelectiveScan(
            _CONV, _STEPS, _BOTH, _FOUND, channels, name(own.rates), name(own.skips), own.is_logarithm
        ),
        ops.OutputGate(_FOUND, _GATES, activation="silu", gate_first=True),
        ops.Linear((ops.Projection(name(own.output), ROWS),), accumulate=True),
    )


def _norms(index: int, own: SelectiveNames, sizes: SelectiveSizes) -> tuple[ops.Operation, ...]:
    if sizes.epsilon is None:
        return ()
    state = sizes.channels.state
    steps, b, c = (name.format(i=index) for name in own.norms) if own.norms else (None,) * 3
    return (
        ops.HeadNorm(_RANK, 0, sizes.rank, 1, steps, sizes.epsilon),
        ops.HeadNorm(_BOTH, 0, state, 1, b, sizes.epsilon),
        ops.HeadNorm(_BOTH, state, state, 1, c, sizes.epsilon),
    )


def selective_sizes(checkpoint: Checkpoint, keys: SelectiveKeys, hidden: int) -> SelectiveSizes:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    if checkpoint.format == "gguf":
        taps, inner, state, rank = (
            gguf_keys.positive(checkpoint, f"ssm.{key}")
            for key in ("conv_kernel", "inner_size", "state_size", "time_step_rank")
        )
    else:
        config_json.require(checkpoint, keys.proj_bias, (False, None), False)
        taps = config_json.positive(checkpoint, keys.taps, default=TAPS)
        state = config_json.positive(checkpoint, keys.state, default=16)
        inner = config_json.positive(checkpoint, keys.expand, default=2) * hidden
        if keys.inner is not None:
            inner = config_json.positive(checkpoint, keys.inner, default=inner)
        rank = -(-hidden // 16)
        if checkpoint.metadata.get(keys.rank, "auto") != "auto":
            rank = config_json.positive(checkpoint, keys.rank)
    is_run = state % 8 == 0 and state <= _MOST_STATE and rank % 8 == 0 and rank <= _MOST_RANK
    if taps != TAPS or inner % 32 or not is_run:
        raise CheckpointError(
            f"{inner} Mamba channels with states of {state} and steps of rank {rank} behind a convolution of "
            f"{taps} tokens, in '{checkpoint.path}', is a shape that the engine does not run."
        )
    return SelectiveSizes(Channels(inner, state), rank)


def selective_names(checkpoint: Checkpoint, layer: str, keys: SelectiveKeys) -> SelectiveNames:
    """`layer` stands before the names of a directory. Raises: CheckpointError for an unknown setting."""
    if checkpoint.format == "gguf":
        layer = "blk.{i}."
        shifts = any(name.endswith(".ssm_conv1d.bias") for name in checkpoint.tensors)
        return SelectiveNames(
            inputs=f"{layer}ssm_in.weight",
            taps=f"{layer}ssm_conv1d.weight",
            conv_bias=f"{layer}ssm_conv1d.bias" if shifts else None,
            both=f"{layer}ssm_x.weight",
            steps=f"{layer}ssm_dt.weight",
            bias=f"{layer}ssm_dt.bias",
            rates=f"{layer}ssm_a",
            skips=f"{layer}ssm_d",
            output=f"{layer}ssm_out.weight",
            is_logarithm=False,
        )
    config_json.require(checkpoint, keys.conv_bias, (True, False), True)
    return SelectiveNames(
        inputs=f"{layer}in_proj.weight",
        taps=f"{layer}conv1d.weight",
        conv_bias=f"{layer}conv1d.bias" if checkpoint.metadata.get(keys.conv_bias, True) else None,
        both=f"{layer}x_proj.weight",
        steps=f"{layer}dt_proj.weight",
        bias=f"{layer}dt_proj.bias",
        rates=f"{layer}A_log",
        skips=f"{layer}D",
        output=f"{layer}out_proj.weight",
        is_logarithm=True,
    )
