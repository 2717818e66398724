"""What a decoder's matrices ask of the machine, to be compared with its limits. Attention is not counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import (
    ExpertLinear,
    Linear,
    ModelPlan,
    Operation,
    Part,
    Projection,
    Route,
    SelectRows,
    Stripe,
)
from llm_serving.native.projection import tensor_of


@dataclass(frozen=True, slots=True)
class MatrixWork:
    """A step reads `step_bytes` of packed weights at least once; of experts, those that one token uses."""

    step_bytes: int
    token_operations: int  # of one token; a multiply and an add are two
    row_operations: int  # of one row of logits, on top

    def operations(self, tokens: int, rows: int) -> int:
        """Of a step, or of several with as many tokens and rows of logits in all."""
        return tokens * self.token_operations + rows * self.row_operations


def matrix_work(
    plan: ModelPlan, checkpoint: Checkpoint, packed_bytes: Callable[[Projection], int]
) -> MatrixWork:
    """`packed_bytes` tells a matrix's length in memory; one that only embeds tokens is not counted."""
    operations = {False: 0, True: 0}
    lengths: dict[tuple[str, Part | Stripe | None], int] = {}
    selected = False
    used = 0
    for operation in plan.operations:
        if isinstance(operation, SelectRows):
            selected = True
        if isinstance(operation, Route):
            used = operation.used
        for projection in _projections(operation, used):
            rows, cols = tensor_of(checkpoint, projection.tensor, projection.part).shape
            operations[selected] += 2 * rows * cols
            lengths[projection.tensor, projection.part] = packed_bytes(projection)
    return MatrixWork(sum(lengths.values()), operations[False], operations[True])


def _projections(operation: Operation, used: int) -> Iterable[Projection]:
    """What a token is multiplied by; of experts any `used`, as they are alike."""
    if isinstance(operation, Linear):
        return operation.projections
    if isinstance(operation, ExpertLinear):
        return chain.from_iterable(operation.experts[:used])
    return ()
