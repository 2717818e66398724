"""How Gemma 4 sees: patches of a picture in its own shape, norms around each part, means of neighbours.

(Gemma Team 2026.) Matrices of some models keep what they read, and what they make, within learned bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_serving.architectures.config_json import before, number, part, positive, require
from llm_serving.architectures.padded import GROUP, Padded, padded
from llm_serving.checkpoints import Checkpoint, dequantize
from llm_serving.errors import CheckpointError
from llm_serving.images.filling import MOST_ROWS
from llm_serving.native import ops
from llm_serving.native.rope import Rope
from llm_serving.native.vision_plan import CONNECTED_ROWS, AnySizePlan

_USUAL = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "head_dim": 64,
    "patch_size": 16,
    "pooling_kernel_size": 3,
}
_PATCHES, _PROJECTION = "patch_embedder.input_proj.weight", "embed_vision.embedding_projection.weight"
_COLUMN, _ROW = 2, 1  # axes of rotary positions

Within = tuple[float, float] | None


def num_rows_of_a_span(checkpoint: Checkpoint) -> int:
    """That see each other all, where rows of a picture do.

    A GGUF file does not say so: those of the models with inputs for each layer do not.
    """
    if checkpoint.format == "gguf":
        sees, apart = checkpoint.projector is not None, checkpoint.hyper("embedding_length_per_layer_input")
        return MOST_ROWS if sees and not apart else 0
    if not has_eyes(checkpoint):
        return 0
    return MOST_ROWS if _text(checkpoint).get("use_bidirectional_attention") == "vision" else 0


def has_eyes(checkpoint: Checkpoint) -> bool:
    if checkpoint.format == "gguf":
        return checkpoint.projector is not None
    return checkpoint.architecture == "gemma4" and checkpoint.metadata.get("vision_config") is not None


def describe_vision(checkpoint: Checkpoint, rows: int) -> tuple[AnySizePlan, Checkpoint]:
    """The plan for pictures of up to so many rows, and the checkpoint with tensors in the shapes it needs.

    Raises: CheckpointError when sizes do not fit each other, the tensors or the engine.
    """
    vision = replace(checkpoint, metadata={**_USUAL, **part(checkpoint, "vision_config")})
    tower = _Tower(vision, _read_shape(vision), before(checkpoint, _PATCHES))
    width = positive(replace(checkpoint, metadata=_text(checkpoint)), "hidden_size")
    plan = tower.plan(rows, _connector(tower.shape, before(checkpoint, _PROJECTION) + _PROJECTION, width))
    return plan, replace(vision, tensors=tower.shapes.tensors)


def _text(checkpoint: Checkpoint) -> Any:
    return part(checkpoint, "text_config")


@dataclass(frozen=True, slots=True)
class _Shape:
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    layers: int
    patch: int
    side: int
    theta: float
    epsilon: float

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim


def _read_shape(vision: Checkpoint) -> _Shape:
    require(vision, "hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    require(vision, "attention_bias", (None, False), False)
    rope: Any = vision.metadata.get("rope_parameters") or {}
    heads = positive(vision, "num_attention_heads")
    shape = _Shape(
        hidden=positive(vision, "hidden_size"),
        heads=heads,
        kv_heads=positive(vision, "num_key_value_heads", default=heads),
        head_dim=positive(vision, "head_dim"),
        ffn=positive(vision, "intermediate_size"),
        layers=positive(vision, "num_hidden_layers"),
        patch=positive(vision, "patch_size"),
        side=positive(vision, "pooling_kernel_size"),
        theta=number(replace(vision, metadata=rope), "rope_theta", default=100.0),
        epsilon=number(vision, "rms_norm_eps", default=1e-6),
    )
    if shape.layers > len(vision.tensors):
        raise CheckpointError(f"'{vision.path}' has no {shape.layers} layers of a vision transformer.")
    if shape.heads % shape.kv_heads or shape.head_dim % 8 or shape.hidden % GROUP or shape.queries % GROUP:
        raise CheckpointError(
            f"{shape.heads} heads of {shape.head_dim} over {shape.kv_heads} and {shape.hidden} dimensions of "
            f"the vision part of '{vision.path}' is a shape the engine does not run."
        )
    return shape


def _connector(shape: _Shape, projection: str, width: int) -> ops.EncoderPlan:
    """Means of patches, normed by no weights, to rows of the text model's width."""
    return ops.EncoderPlan(
        hidden=width,
        context=CONNECTED_ROWS,
        vocab_size=0,
        buffers={"x": width, "means": shape.hidden},
        operations=(
            ops.Given("means"),
            ops.HeadNorm("means", 0, shape.hidden, 1, None, shape.epsilon),
            ops.Quantize("means"),
            ops.Linear((ops.Projection(projection, "x", fine=True),)),
        ),
        pooling="",
    )


class _Tower:
    def __init__(self, vision: Checkpoint, shape: _Shape, prefix: str) -> None:
        self.vision = vision
        self.shape = shape
        self.prefix = prefix
        self.shapes = Padded(vision)

    def plan(self, rows: int, connector: ops.EncoderPlan) -> AnySizePlan:
        shape, patches = self.shape, f"{self.prefix}{_PATCHES}"
        is_convolution = len(self.vision.tensor(patches).shape) == 4  # as projector files have it
        pixels = 3 * shape.patch**2
        if math.prod(self.vision.tensor(patches).shape[1:]) != pixels:
            raise CheckpointError(f"Tensor '{patches}' is not for patches of {shape.patch} pixels.")
        columns = self.shapes.as_matrix(patches) if is_convolution else self.shapes.columns(patches, pixels)
        table = f"{self.prefix}patch_embedder.position_embedding_table"
        sizes = self.vision.tensor(table).shape
        if len(sizes) != 3 or sizes[::2] != (2, shape.hidden) or sizes[1] < rows * shape.side:
            raise CheckpointError(
                f"Tensor '{table}' of shape {sizes} has no {rows * shape.side} positions in both directions."
            )
        standard = (f"{self.prefix}std_bias", f"{self.prefix}std_scale")
        has_standard = standard[0] in self.vision.tensors
        for name in standard if has_standard else ():
            if self.vision.tensor(name).shape != (shape.hidden,):
                raise CheckpointError(f"Tensor '{name}' is not {shape.hidden} numbers.")
        tower = ops.EncoderPlan(
            hidden=shape.hidden,
            context=rows * shape.side**2,
            vocab_size=0,
            buffers={
                "x": shape.hidden,
                "patches": columns,
                "qkv": shape.queries + 2 * shape.keys,
                "attention": shape.queries,
                "up": 2 * padded(shape.ffn),
                "part": shape.hidden,
            },
            operations=(
                ops.Given("patches"),
                ops.Quantize("patches"),
                ops.Linear((ops.Projection(patches, "x", fine=True),)),
                ops.AddGiven("x", columns),
                *(op for i in range(shape.layers) for op in self._layer(f"{self.prefix}encoder.layers.{i}.")),
            ),
            pooling="",
        )
        return AnySizePlan(
            tower,
            (connector,),
            rows,
            shape.patch,
            shape.side,
            1,
            columns,
            positions=table,
            averages=True,
            standard=standard if has_standard else None,
            channels_last=not is_convolution,
        )

    def _layer(self, layer: str) -> Sequence[ops.Operation]:
        shape, own, mlp = self.shape, f"{layer}self_attn.", f"{layer}mlp."
        queries, keys, wide = shape.queries, shape.keys, padded(shape.ffn)
        inputs = [("q_proj", 0, queries), ("k_proj", queries, keys), ("v_proj", queries + keys, keys)]
        for name in ("gate_proj", "up_proj"):
            self.shapes.rows(f"{mlp}{name}.linear.weight", shape.ffn)
        self.shapes.columns(f"{mlp}down_proj.linear.weight", shape.ffn)
        output, down = self._bounds(f"{own}o_proj"), self._bounds(f"{mlp}down_proj")
        return (
            *self._read(f"{layer}input_layernorm", own, inputs, "qkv"),
            self._head_norm(f"{own}q_norm.weight", 0, shape.heads),
            self._head_norm(f"{own}k_norm.weight", queries, shape.kv_heads),
            self._head_norm(None, queries + keys, shape.kv_heads),
            # The first half of a head is turned by a patch's column, the second one by its row.
            *(self._rotate(half, axis) for half, axis in enumerate((_COLUMN, _ROW))),
            ops.EncoderAttention("qkv", "attention", shape.heads, shape.kv_heads, 1.0),
            ops.Quantize("attention", within=output[0]),
            *self._add(f"{own}o_proj", output[1], f"{layer}post_attention_layernorm"),
            *self._read(
                f"{layer}pre_feedforward_layernorm",
                mlp,
                [("gate_proj", 0, wide), ("up_proj", wide, wide)],
                "up",
            ),
            ops.Gated("up", wide, "gelu_tanh", within=down[0]),
            *self._add(f"{mlp}down_proj", down[1], f"{layer}post_feedforward_layernorm"),
        )

    def _read(
        self, norm: str, prefix: str, matrices: list[tuple[str, int, int]], target: str
    ) -> Sequence[ops.Operation]:
        """(name, first column, columns) of what reads the normed rows, within bounds of each."""
        bounds = {name: self._bounds(f"{prefix}{name}") for name, _, _ in matrices}
        found: list[ops.Operation] = []
        several = list(dict.fromkeys(own for own, _ in bounds.values()))
        for within in several:
            found += [
                ops.Quantize("x", f"{norm}.weight", self.shape.epsilon, within=within),
                ops.Linear(
                    tuple(
                        ops.Projection(f"{prefix}{name}.linear.weight", target, first)
                        for name, first, _ in matrices
                        if bounds[name][0] == within
                    ),
                    apart=len(several) > 1,
                ),
            ]
        for name, first, count in matrices:
            found += _clamp(target, first, count, bounds[name][1])
        return found

    def _add(self, matrix: str, within: Within, norm: str) -> Sequence[ops.Operation]:
        return (
            ops.Linear((ops.Projection(f"{matrix}.linear.weight", "part"),)),
            *_clamp("part", 0, self.shape.hidden, within),
            ops.Quantize("part", f"{norm}.weight", self.shape.epsilon, keep=True),
            ops.Copy("part", "x", accumulate=True),
        )

    def _head_norm(self, weight: str | None, offset: int, heads: int) -> ops.HeadNorm:
        return ops.HeadNorm("qkv", offset, heads * self.shape.head_dim, heads, weight, self.shape.epsilon)

    def _rotate(self, half: int, axis: int) -> ops.Rotate:
        dim = self.shape.head_dim // 2
        halves = 2 * (self.shape.heads + self.shape.kv_heads)
        rope = Rope(self.shape.theta, dim, axes=(axis,) * (dim // 2))
        return ops.Rotate("qkv", halves, dim, rope, first=half, stride=2)

    def _bounds(self, name: str) -> tuple[Within, Within]:
        """Of what a matrix reads, and of what it makes."""
        return self._pair(f"{name}.input"), self._pair(f"{name}.output")

    def _pair(self, name: str) -> Within:
        tensors = [self.vision.tensors.get(f"{name}_{end}") for end in ("min", "max")]
        values = [
            default if tensor is None else float(dequantize(tensor).reshape(-1)[0])
            for tensor, default in zip(tensors, (-math.inf, math.inf), strict=True)
        ]
        if not values[0] <= values[1]:
            raise CheckpointError(
                f"The bounds '{name}_min' and '{name}_max' are {values[0]} and {values[1]}."
            )
        return None if all(map(math.isinf, values)) else (values[0], values[1])


def _clamp(target: str, first: int, count: int, within: Within) -> list[ops.Operation]:
    return [] if within is None else [ops.Clamp(target, first, count, within)]
