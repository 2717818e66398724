"""Vision transformers of Qwen-VL (Wang et al. 2024): pictures of any size, patches turned by place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_serving.architectures.config_json import number, positive, require
from llm_serving.architectures.padded import GROUP, Padded
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.rope import axial_rope
from llm_serving.native.vision_plan import CONNECTED_ROWS, AnySizePlan

PATCHES = "patch_embed.proj.weight"  # the tower's own, wherever it hangs
_EPSILONS = ("layer_norm_eps", "rms_norm_eps")  # of all norms, where a config.json says of them


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a tower, checked."""

    hidden: int
    heads: int
    ffn: int
    layers: int
    patch: int  # pixels a side
    side: int  # patches a side that become one row
    frames: int  # of a film that a patch goes through: a picture is all of them
    theta: float
    epsilon: float  # of all norms
    apart: bool  # whether queries, keys and values have a matrix each

    @property
    def merged(self) -> int:
        """What a row is made of."""
        return self.side**2 * self.hidden


def read_shape(vision: Checkpoint, hidden: int, ffn: int) -> Shape:
    """`metadata` is the vision part's. Raises: CheckpointError for a size that the engine does not run."""
    channels = "in_channels" if "in_channels" in vision.metadata else "in_chans"
    require(vision, channels, (3,), 3)
    rope: Any = vision.metadata.get("rope_parameters") or {}
    shape = Shape(
        hidden=hidden,
        heads=positive(vision, "num_heads", default=16),
        ffn=ffn,
        layers=positive(vision, "depth", default=32),
        patch=positive(vision, "patch_size", default=14),
        side=positive(vision, "spatial_merge_size", default=2),
        frames=positive(vision, "temporal_patch_size", default=2),
        theta=number(replace(vision, metadata=rope), "rope_theta", default=10000.0),
        epsilon=number(vision, *_EPSILONS, default=1e-6),
        apart=any(name.endswith("blocks.0.attn.q.weight") for name in vision.tensors),
    )
    if shape.layers > len(vision.tensors):
        raise CheckpointError(f"'{vision.path}' has no {shape.layers} layers of a vision transformer.")
    if hidden % shape.heads or (hidden // shape.heads) % 8 or hidden % GROUP:
        raise CheckpointError(
            f"{shape.heads} heads over {hidden} dimensions of the vision part of '{vision.path}' is a shape "
            "the engine does not run."
        )
    return shape


def norm(name: str, shape: Shape, layer_norm: bool, source: str = "x", *, keep: bool = False) -> ops.Quantize:
    bias = f"{name}.bias" if layer_norm else None
    return ops.Quantize(source, f"{name}.weight", shape.epsilon, layer_norm, bias, keep=keep)


def linear(name: str, target: str, offset: int = 0, *, fine: bool = False) -> ops.Projection:
    return ops.Projection(f"{name}.weight", target, offset, f"{name}.bias", fine=fine)


def attention(layer: str, shape: Shape, *, layer_norm: bool, whole: bool) -> tuple[ops.Operation, ...]:
    """A block up to its second norm. Without `whole` patches see those of their window, if there are any."""
    head_dim = shape.hidden // shape.heads
    return (
        norm(f"{layer}norm1", shape, layer_norm),
        ops.Linear(
            tuple(linear(f"{layer}attn.{name}", "qkv", i * shape.hidden) for i, name in enumerate("qkv"))
            if shape.apart
            else (linear(f"{layer}attn.qkv", "qkv"),)
        ),
        ops.Rotate("qkv", 2 * shape.heads, head_dim, axial_rope(shape.theta, head_dim)),
        ops.EncoderAttention("qkv", "attention", shape.heads, shape.heads, head_dim**-0.5, whole=whole),
        ops.Quantize("attention"),
        ops.Linear((linear(f"{layer}attn.proj", "x"),), accumulate=True),
        norm(f"{layer}norm2", shape, layer_norm),
    )


def plain_part(
    first: str, second: str, shape: Shape, shapes: Padded, gelu: ops.Gelu
) -> tuple[ops.Operation, ...]:
    """The second half of a block without gates; `gelu` is of "up"."""
    shapes.rows(f"{first}.weight", shape.ffn)
    shapes.rows(f"{first}.bias", shape.ffn)
    shapes.columns(f"{second}.weight", shape.ffn)
    return (ops.Linear((linear(first, "up"),)), gelu, ops.Linear((linear(second, "x"),), accumulate=True))


@dataclass(frozen=True, slots=True)
class Sight:
    """What a generation puts together: a picture's rows at most, what is around the blocks, and sizes."""

    shapes: Padded
    prefix: str  # of all names
    shape: Shape
    rows: int
    up: int  # columns of the second half of a block

    def plan(
        self,
        blocks: Sequence[ops.Operation],
        connectors: tuple[ops.EncoderPlan, ...],
        *,
        window: int = 0,
        bias: bool = False,
        positions: str | None = None,
    ) -> AnySizePlan:
        """With several connectors blocks fill "seen", columns for each; else "x" is what is seen.

        Raises: CheckpointError for patches or positions of other sizes.
        """
        self._check(positions)
        shape, embedding = self.shape, f"{self.prefix}{PATCHES.removesuffix('.weight')}"
        columns = self.shapes.as_matrix(f"{self.prefix}{PATCHES}")
        matrix = linear(embedding, "x", fine=True)
        second = f"{embedding}.weight.1"  # of the same picture again, where frames have a matrix each
        if is_apart := second in self.shapes.tensors:
            self.shapes.as_matrix(second)
        seen = {"seen": len(connectors) * shape.hidden} if len(connectors) > 1 else {}
        tower = ops.EncoderPlan(
            hidden=shape.hidden,
            context=self.rows * shape.side**2,
            vocab_size=0,
            buffers={
                **seen,
                "x": shape.hidden,
                "patches": columns,
                "qkv": 3 * shape.hidden,
                "attention": shape.hidden,
                "up": self.up,
            },
            operations=(
                ops.Given("patches"),
                ops.Quantize("patches"),
                ops.Linear((matrix if bias else replace(matrix, bias=None),)),
                *(
                    [ops.Linear((ops.Projection(second, "x", fine=True),), accumulate=True)]
                    if is_apart
                    else []
                ),
                *([ops.AddGiven("x", columns)] if positions else []),
                *blocks,
            ),
            pooling="",
        )
        return AnySizePlan(
            tower,
            connectors,
            self.rows,
            shape.patch,
            shape.side,
            shape.frames,
            columns,
            window,
            positions,
        )

    def _check(self, positions: str | None) -> None:
        """What is put together when a picture comes fits: a patch, and its position."""
        shape, tensors = self.shape, self.shapes.tensors
        patch = tensors[f"{self.prefix}{PATCHES}"]
        if math.prod(patch.shape[1:]) != 3 * shape.frames * shape.patch**2:
            raise CheckpointError(
                f"Tensor '{patch.name}' of shape {patch.shape} is not for {shape.frames} frames of patches "
                f"of {shape.patch} pixels."
            )
        if positions is None:
            return
        if positions not in tensors or tensors[positions].shape[1:] != (shape.hidden,):
            raise CheckpointError(f"There are no positions '{positions}' of {shape.hidden} dimensions.")


def merger(first: str, second: str, shape: Shape, width: int, norms: str | None = None) -> ops.EncoderPlan:
    """Patches that become a row, side by side, to rows of `width`: matrix, gelu, matrix.

    `norms` is what they are normed by together, if they are not normed yet.
    """
    before = ops.Quantize("patches") if norms is None else norm(norms, shape, True, "patches")
    return ops.EncoderPlan(
        hidden=width,
        context=CONNECTED_ROWS,
        vocab_size=0,
        buffers={"x": width, "patches": shape.merged, "inner": shape.merged},
        operations=(
            ops.Given("patches"),
            before,
            ops.Linear((linear(first, "inner", fine=True),)),
            ops.Gelu("inner"),
            ops.Linear((linear(second, "x", fine=True),)),
        ),
        pooling="",
    )
