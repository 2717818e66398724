"""A model as data: the operations of one forward pass, over named buffers and checkpoint tensors.

Families in `architectures/` write these; `native/plan.py` turns them into the C++ plan. Rows are tokens
until the first `SelectRows`, and the rows whose logits are wanted after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_serving.native.altup import AltUpCorrect as AltUpCorrect
from llm_serving.native.altup import AltUpPredict as AltUpPredict
from llm_serving.native.altup import GaussianTopK as GaussianTopK
from llm_serving.native.altup import MatchMagnitude as MatchMagnitude
from llm_serving.native.attention_ops import Attention as Attention
from llm_serving.native.attention_ops import EncoderAttention as EncoderAttention
from llm_serving.native.attention_ops import HeadNorm as HeadNorm
from llm_serving.native.attention_ops import RopeStore as RopeStore
from llm_serving.native.attention_ops import Rotate as Rotate
from llm_serving.native.biases import BucketBias as BucketBias
from llm_serving.native.biases import LinearBias as LinearBias
from llm_serving.native.biases import WindowBias as WindowBias
from llm_serving.native.delta_net import DeltaInputs as DeltaInputs
from llm_serving.native.delta_net import DeltaRule as DeltaRule
from llm_serving.native.delta_net import OutputGate as OutputGate
from llm_serving.native.disentangled import DisentangledAttention as DisentangledAttention
from llm_serving.native.disentangled import Positions as Positions
from llm_serving.native.embedding_ops import AddGiven as AddGiven
from llm_serving.native.embedding_ops import AddPositions as AddPositions
from llm_serving.native.embedding_ops import AddRows as AddRows
from llm_serving.native.embedding_ops import Embed as Embed
from llm_serving.native.embedding_ops import Given as Given
from llm_serving.native.expert_ops import Combine as Combine
from llm_serving.native.expert_ops import ExpertGroups as ExpertGroups
from llm_serving.native.expert_ops import ExpertLinear as ExpertLinear
from llm_serving.native.expert_ops import Gather as Gather
from llm_serving.native.expert_ops import Route as Route
from llm_serving.native.gated_conv import GatedConv as GatedConv
from llm_serving.native.mamba import MambaInputs as MambaInputs
from llm_serving.native.mamba import MambaScan as MambaScan
from llm_serving.native.projection import Part as Part
from llm_serving.native.projection import Projection as Projection
from llm_serving.native.projection import Stripe as Stripe
from llm_serving.native.rope import Rope as Rope
from llm_serving.native.selective_scan import SelectiveScan as SelectiveScan
from llm_serving.native.selective_scan import ShortConv as ShortConv


@dataclass(frozen=True, slots=True)
class Quantize:
    """activations = int8(norm(source)), or int8(source) without a weight.

    `layer_norm` (weight and bias may be missing) instead of rms_norm; `keep` also writes the normed row to
    `source`; `gain` multiplies the norm's weights. With f32 weights activations stay f32. What becomes
    activations is kept `within` (least, most) before.
    """

    source: str
    weight: str | None = None
    epsilon: float = 0.0
    layer_norm: bool = False
    bias: str | None = None
    keep: bool = False
    gain: float = 1.0
    within: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Clamp:
    """Columns of `source`, `width` from `offset` on, are kept `within` (least, most)."""

    source: str
    offset: int
    width: int
    within: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Gelu:
    """activations = int8(gelu(source)), by erf, or what is near: by `tanh`; `quick`, x * sigmoid(1.702 x)."""

    source: str
    tanh: bool = False
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Xielu:
    """activations = int8(positive x² + beta x), below zero int8(negative (e^x - 1 - x) + beta x).

    xIELU (Huang & Schlag 2024); with 1, 0 and 0 the square of relu.
    """

    source: str
    positive: float
    negative: float
    beta: float


@dataclass(frozen=True, slots=True)
class Gated:
    """activations = int8(activation(source[:, :cols]) * source[:, cols:]).

    With a `limit`: gate * sigmoid(slope * gate) * (up + 1), of gates up to it and ups within it (gpt-oss).
    `within` as in `Quantize`.
    """

    source: str
    cols: int
    activation: str = "silu"  # or gelu, gelu_tanh, relu
    limit: float = 0.0
    slope: float = 1.0
    opened: tuple[str, int] | None = (
        None  # what gates open, where it is of another buffer, from this column on
    )
    within: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """Several projections of the same activations; `accumulate` adds to the target (a residual).

    With `apart` each reads as many columns of the activations as it has, from its `first` on, and they may
    leave columns of a target, which others write.
    """

    projections: tuple[Projection, ...]
    accumulate: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class SoftCap:
    """source = cap * tanh(source / cap)."""

    source: str
    cap: float


@dataclass(frozen=True, slots=True)
class SelectRows:
    """target = the rows of `source` whose logits are wanted; what follows works on those only."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Copy:
    """target = source + bias, or target += that; times sigmoid(door), one number a row, if there is one.

    At last target *= `scale`: a number, or a tensor of one number, or of one for each column. With an
    `offset` the target is wider, and this is about its columns from there on.
    """

    source: str
    target: str
    bias: str | None = None
    accumulate: bool = False
    door: str | None = None
    scale: str | float | None = None
    offset: int | None = None


Operation = (
    Embed
    | Given
    | AddGiven
    | AddRows
    | AddPositions
    | Quantize
    | Clamp
    | Gelu
    | Xielu
    | Gated
    | Linear
    | RopeStore
    | Attention
    | SoftCap
    | HeadNorm
    | Rotate
    | EncoderAttention
    | DisentangledAttention
    | GatedConv
    | SelectRows
    | Copy
    | Route
    | Gather
    | ExpertLinear
    | Combine
    | DeltaInputs
    | DeltaRule
    | OutputGate
    | MambaInputs
    | MambaScan
    | ShortConv
    | SelectiveScan
    | AltUpPredict
    | AltUpCorrect
    | MatchMagnitude
    | GaussianTopK
)


@dataclass(frozen=True, slots=True)
class KvShape:
    """What a layer keeps of each token: keys and values of so many heads."""

    heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Everything the native engine needs to know of a decoder."""

    vocab_size: int
    max_context: int  # tokens the model was trained for
    query_heads: int
    # Of layers that keep keys and values, as `RopeStore` and `Attention` count them; there may be none.
    kv: tuple[KvShape, ...]
    rope: Rope
    buffers: dict[str, int]  # name -> width; the logits come last
    operations: tuple[Operation, ...]
    norm_offset: float = 0.0  # added to the weights of all norms
    slots: dict[str, int] = field(default_factory=dict)  # buffers with a row for each slot, see `Route`
    # Rows given together that see each other all, at most; 0: they see what came before. Texts are computed
    # alike, so it names no arithmetic.
    given_span: int = field(default=0, repr=False)
    state_floats: int = 0  # that recurrent layers remember of a sequence, f32

    @property
    def given_width(self) -> int:
        """Of rows that stand for tokens: that of an embedding, and what layers add of them behind it."""
        width = self.buffers["x"]
        return max([width, *(op.offset + width for op in self.operations if isinstance(op, AddGiven))])


@dataclass(frozen=True, slots=True)
class Head:
    """What turns a pooled row into labels: dense with an activation, then the classifier. Tensor names."""

    classifier: str
    dense: str | None = None
    activation: str = "tanh"  # tanh, relu, gelu
    norm: str | None = None  # layer norm after the activation (ModernBERT)
    epsilon: float = 1e-5
    rows: tuple[int, ...] = ()  # of the classifier: the label is the first, less the second if any
    pad: int | None = None  # tokens of this id at a text's end are not read, where pooling is of the last one


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """Everything the native engine needs to know of an embedding or reranking model."""

    hidden: int
    context: int  # tokens one text may have, by its positions
    vocab_size: int
    buffers: dict[str, int]  # name -> width; what comes out is the one called "x"
    operations: tuple[Operation, ...]
    pooling: str  # mean, cls, last, max
    segments: int = 1
    head: Head | None = None
    slots: dict[str, int] = field(default_factory=dict)
    norm_offset: float = 0.0  # as in `ModelPlan`
    dense: tuple[str, ...] = ()  # layers behind pooling, without activations; tensor names
