"""Pairs of tensors that are the matrices of experts in MXFP4, as directories of gpt-oss have them."""

from __future__ import annotations

from collections.abc import Mapping

from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.checkpoints.mxfp4 import GROUP_BYTES
from llm_serving.errors import CheckpointError

BLOCKS, SCALES = "_blocks", "_scales"
_MATRICES = ("experts.gate_up_proj", "experts.down_proj")


def expert_matrices(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of bytes, those that are values [experts, rows, groups, 16] with exponents [experts, rows, groups].

    They become tensors [experts, rows, 32 * groups] of kind MXFP4, with `scales`.

    Raises: CheckpointError for values without exponents, or of shapes that do not fit.
    """
    found = {}
    for stored, values in raw.items():
        name = stored.removesuffix(BLOCKS)
        if name == stored or not name.endswith(_MATRICES):
            continue
        exponents = raw.get(f"{name}{SCALES}")
        if exponents is None:
            raise CheckpointError(f"There is a tensor '{stored}', but no '{name}{SCALES}' of bytes.")
        experts, rows, groups, width = values.shape if len(values.shape) == 4 else (0, 0, 0, 0)
        if width != GROUP_BYTES or 0 in values.shape or exponents.shape != (experts, rows, groups):
            raise CheckpointError(
                f"Tensor '{stored}' of shape {values.shape} and '{name}{SCALES}' of shape {exponents.shape} "
                "are not experts' matrices in MXFP4."
            )
        shape = (experts, rows, 2 * GROUP_BYTES * groups)
        found[name] = Tensor(name, "MXFP4", shape, values.data, exponents.data)
    return found
