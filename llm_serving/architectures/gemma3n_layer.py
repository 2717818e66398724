"""One layer of Gemma 3n: Gemma 4's parts on a row that AltUp predicts and corrects (Baykal et al. 2023)."""

from __future__ import annotations

from llm_serving.architectures.gemma3n_names import AltUpNames
from llm_serving.architectures.gemma3n_shape import Gemma3nShape
from llm_serving.architectures.gemma4_layer import Layer
from llm_serving.architectures.gemma4_names import Names
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def layer(
    checkpoint: Checkpoint, index: int, names: Names, altup: AltUpNames, shape: Gemma3nShape
) -> tuple[ops.Operation, ...]:
    """On the buffers that `gemma3n.py` lists."""
    return _Layer(checkpoint, index, names, altup, shape).operations()


def stream_buffers(first: str, streams: int) -> tuple[str, ...]:
    """Buffers of a token's rows, of which layers compute the first."""
    return (first, *(f"{first}{j}" for j in range(1, streams)))


class _Layer(Layer):
    """The learned residual (LAuReL, Menghani et al. 2024) is of the normed row, so "row" begins as that."""

    goes_on_normed = True

    def __init__(
        self, checkpoint: Checkpoint, index: int, names: Names, altup: AltUpNames, shape: Gemma3nShape
    ) -> None:
        super().__init__(checkpoint, index, names, shape.usual)
        self.altup = altup
        self.all = shape
        self.streams = stream_buffers(self.x, shape.streams)
        self.x = "row"

    def operations(self) -> tuple[ops.Operation, ...]:
        altup, first = self.altup, self.streams[0]
        return (
            *self._route(first),
            ops.AltUpPredict(self.streams, "router", self._name(altup.predict)),
            ops.Copy(first, self.x),
            *self._attention(),
            ops.Quantize("low"),
            *self._add(altup.laurel_right, altup.laurel_norm),
            ops.Copy(first, self.x, accumulate=True, scale=2**-0.5),
            *self._feed_forward(),
            *self._route(self.x),
            ops.AltUpCorrect(self.streams, self.x, "router", self._name(altup.correct)),
            *self._own_input(),
        )

    def _route(self, source: str) -> tuple[ops.Operation, ...]:
        """How streams are mixed, of this row."""
        usual, norm = self.shape, self._name(self.altup.router_norm)
        return (
            ops.Quantize(source, norm, usual.epsilon, gain=1 / usual.hidden),
            ops.Linear((ops.Projection(self._name(self.altup.router), "router", fine=True),)),
        )

    def _beside(self) -> tuple[ops.Projection, ...]:
        return (self._matrix(self.altup.laurel_left, "low"),)

    def _sparse(self, gates: str) -> tuple[ops.Operation, ...]:
        cut = self.all.cuts[self.index]
        return () if cut is None else (ops.GaussianTopK(gates, self.own.ffn, cut),)

    def _own_input(self) -> tuple[ops.Operation, ...]:
        """The first stream opens a gate for what the layer is told of the token; others get the result."""
        names, width, (first, *others) = self.names, self.shape.inputs, self.streams
        scale = self._name(self.altup.scale) if self.all.scales_correction else None
        return (
            ops.Copy(first, "part", scale=scale),
            ops.Quantize("part"),
            ops.Linear((self._matrix(names.layer_gate, "gate"),)),
            ops.Gated("gate", width, "gelu_tanh", opened=(self.inputs, self.index * width)),
            ops.Linear((self._matrix(names.layer_projection, "part"),)),
            ops.Quantize("part", self._name(names.layer_norm), self.shape.epsilon, keep=True),
            *(ops.Copy("part", other, accumulate=True) for other in others),
        )
