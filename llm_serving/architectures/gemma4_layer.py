"""One layer of Gemma 4, on the rows of all tokens or, where it keeps no keys, of those that are asked for."""

from __future__ import annotations

from llm_serving.architectures.experts import mixture
from llm_serving.architectures.gemma4_names import Names
from llm_serving.architectures.gemma4_shape import Gemma4Shape
from llm_serving.architectures.gemma_layers import LayerShape
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def layer(checkpoint: Checkpoint, index: int, names: Names, shape: Gemma4Shape) -> tuple[ops.Operation, ...]:
    """On the buffers that `gemma4.py` lists. Raises: CheckpointError for experts that do not fit."""
    return Layer(checkpoint, index, names, shape).operations()


class Layer:
    """`x` is the buffer that the parts read and add to. Gemma 3n's layers are made of the same parts."""

    goes_on_normed = False  # what attention adds to is the row as its norm made it

    def __init__(self, checkpoint: Checkpoint, index: int, names: Names, shape: Gemma4Shape) -> None:
        self.checkpoint = checkpoint
        self.index = index
        self.names = names
        self.shape = shape
        self.own: LayerShape = shape.layers[index]
        self.keeps = self.own.reads == index
        self.x, self.inputs = ("x", "inputs") if self.keeps else ("last", "last_inputs")
        self.kind = "local" if self.own.is_local else "global"

    def operations(self) -> tuple[ops.Operation, ...]:
        ends = [self._attention(), self._feed_forward()]
        if self.shape.inputs:
            ends.append(self._own_input())
        *first, last = (op for part in ends for op in part)
        scale = self._name(self.names.layer_scale)
        if scale not in self.checkpoint.tensors or not isinstance(last, ops.Copy):
            return (*first, last)
        return (*first, ops.Copy(last.source, last.target, accumulate=True, scale=scale))

    def _attention(self) -> tuple[ops.Operation, ...]:
        own, shape, names = self.own, self.shape, self.names
        queries = shape.heads * own.head_dim
        source = f"qkv_{self.kind}" if self.keeps else f"queries_{self.kind}"
        target = f"attention_{self.kind}"
        rope = shape.local_rope if own.is_local else shape.rope
        query_norm = ops.HeadNorm(
            source, 0, queries, shape.heads, self._name(names.query_norm), shape.epsilon
        )
        query = self._matrix(names.query, source)
        ready = (
            self._keys(source, query, query_norm, rope)
            if self.keeps
            else (
                ops.Linear((query, *self._beside())),
                query_norm,
                ops.Rotate(source, shape.heads, own.head_dim, rope),
            )
        )
        return (
            self._read(names.input_norm, keep=self.goes_on_normed),
            *ready,
            ops.Attention(
                source,
                target,
                own.reads,
                1.0,
                shape.window if own.is_local else 0,
                ahead=own.is_local,  # rows of a picture see each other in layers with windows alone
            ),
            ops.Quantize(target),
            *self._add(names.output, names.attention_norm),
        )

    def _keys(
        self, source: str, query: ops.Projection, query_norm: ops.Operation, rope: ops.Rope
    ) -> tuple[ops.Operation, ...]:
        """Queries with keys and values, which are stored. Values are normed, too, by no weights."""
        own, names, epsilon = self.own, self.names, self.shape.epsilon
        queries, keys = self.shape.heads * own.head_dim, own.kv_heads * own.head_dim
        # Where there is no matrix for values, they are what keys were before their norm.
        has_values = self._name(names.value) in self.checkpoint.tensors
        return (
            ops.Linear(
                (
                    query,
                    self._matrix(names.key, source, queries),
                    self._matrix(names.value if has_values else names.key, source, queries + keys),
                    *self._beside(),
                )
            ),
            query_norm,
            ops.HeadNorm(source, queries, keys, own.kv_heads, self._name(names.key_norm), epsilon),
            ops.HeadNorm(source, queries + keys, keys, own.kv_heads, None, epsilon),
            ops.RopeStore(source, self.index, rope if own.is_local else None),
        )

    def _beside(self) -> tuple[ops.Projection, ...]:
        """What else reads the row as attention does."""
        return ()

    def _feed_forward(self) -> tuple[ops.Operation, ...]:
        names, gates = self.names, f"gate_up_{self.own.ffn}"
        return (
            self._read(names.ffn_norm),
            ops.Linear((self._matrix(names.gate, gates), self._matrix(names.up, gates, self.own.ffn))),
            *self._sparse(gates),
            ops.Gated(gates, self.own.ffn, "gelu_tanh"),
            ops.Linear((self._matrix(names.down, "part"),)),
            *(self._experts() if self.shape.experts is not None else ()),
            *self._add_part(names.ffn_norm_behind),
        )

    def _sparse(self, gates: str) -> tuple[ops.Operation, ...]:
        """What closes most gates before they are opened."""
        return ()

    def _experts(self) -> tuple[ops.Operation, ...]:
        """part = norm(part) + norm(what experts make of the rows as they came to the feed-forward part)."""
        assert self.shape.experts is not None
        names, epsilon = self.names, self.shape.epsilon
        router_scale = self._name(names.router_scale)
        return (
            ops.Quantize("part", self._name(names.dense_norm), epsilon, keep=True),
            ops.Copy(self.x, "normed"),
            ops.Quantize("normed", self._name(names.experts_norm), epsilon, keep=True),
            ops.Quantize(self.x, router_scale, epsilon, gain=self.shape.hidden**-0.5),
            *mixture(self.checkpoint, names.experts, self.shape.experts, self.index, "normed", "experts"),
            ops.Quantize("experts", self._name(names.experts_norm_behind), epsilon, keep=True),
            ops.Copy("experts", "part", accumulate=True),
        )

    def _own_input(self) -> tuple[ops.Operation, ...]:
        """The row opens a gate for what the layer is told of the token itself."""
        names, width = self.names, self.shape.inputs
        return (
            ops.Quantize(self.x),
            ops.Linear((self._matrix(names.layer_gate, "gate"),)),
            ops.Gated("gate", width, "gelu_tanh", opened=(self.inputs, self.index * width)),
            *self._add(names.layer_projection, names.layer_norm),
        )

    def _read(self, norm: str, keep: bool = False) -> ops.Operation:
        return ops.Quantize(self.x, self._name(norm), self.shape.epsilon, keep=keep)

    def _add(self, matrix: str, norm: str) -> tuple[ops.Operation, ...]:
        return (ops.Linear((self._matrix(matrix, "part"),)), *self._add_part(norm))

    def _add_part(self, norm: str) -> tuple[ops.Operation, ...]:
        return (
            ops.Quantize("part", self._name(norm), self.shape.epsilon, keep=True),
            ops.Copy("part", self.x, accumulate=True),
        )

    def _matrix(self, name: str, target: str, offset: int = 0) -> ops.Projection:
        return ops.Projection(self._name(name), target, offset)

    def _name(self, name: str) -> str:
        return name.format(i=self.index)
