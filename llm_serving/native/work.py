"""What a decoder's matrices ask of the machine, to be compared with its limits. Attention is not counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import Linear, ModelPlan, Projection, SelectRows


@dataclass(frozen=True, slots=True)
class MatrixWork:
    """A step of any size reads `step_bytes` of packed weights at least once."""

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
    lengths: dict[str, int] = {}
    selected = False
    for operation in plan.operations:
        if isinstance(operation, SelectRows):
            selected = True
        elif isinstance(operation, Linear):
            for projection in operation.projections:
                rows, cols = checkpoint.tensors[projection.tensor].shape
                operations[selected] += 2 * rows * cols
                lengths[projection.tensor] = packed_bytes(projection)
    return MatrixWork(sum(lengths.values()), operations[False], operations[True])
