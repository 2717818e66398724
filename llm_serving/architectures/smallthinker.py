"""SmallThinker: experts with relu, chosen by what comes into a layer (Song et al. 2025).

The first of four layers sees everything and is not told positions, where the others have windows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llm_serving.architectures import deepseek_gguf, gguf_keys
from llm_serving.architectures.decoder import Kind, describe_decoder
from llm_serving.architectures.decoder_experts import GGUF_NAMES
from llm_serving.architectures.decoder_shape import Defaults
from llm_serving.architectures.layer_kinds import global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(theta=1500000.0, epsilon=1e-6, context=16384)
_EVERY = 4  # layers


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """A GGUF file of the 4 B, whose layers see everything, or of the 21 B.

    Raises: CheckpointError for a directory, which needs its own code, or a size that is missing.
    """
    gguf_keys.require_gguf(checkpoint)
    _, sizes = deepseek_gguf.experts_of(checkpoint)
    experts = GGUF_NAMES, replace(sizes, normalized=True, activation="relu")
    kind = Kind(experts=experts, routed_first=True)
    if not gguf_keys.is_zero(checkpoint, "attention.sliding_window"):
        layers = gguf_keys.num_layers(checkpoint)
        pattern = checkpoint.hyper("attention.sliding_window_pattern")
        first = frozenset(range(0, layers, _EVERY))
        kind = replace(
            kind,
            window=gguf_keys.positive(checkpoint, "attention.sliding_window"),
            open=global_layers(checkpoint, layers, _EVERY) if isinstance(pattern, np.ndarray) else first,
            still=first,
        )
    return describe_decoder(checkpoint, kind, _DEFAULTS)
