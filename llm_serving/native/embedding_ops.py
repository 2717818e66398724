"""Operations that rows begin with: by token id, by position, or as a step brings them along."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Embed:
    """target = scale * rows of `tensor`, by token id; `fine` as in `Projection`.

    A step may give rows for some tokens, which then stand as they are.
    """

    tensor: str
    target: str
    fine: bool = False
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Given:
    """target = rows that each step brings along, one for each of its tokens, which have no embedding."""

    target: str


@dataclass(frozen=True, slots=True)
class AddGiven:
    """target += columns from `offset` on of the rows that a step brings along, for tokens that have some.

    So rows are wider than what stands for an embedding (`ModelPlan.given_width`).
    """

    target: str
    offset: int


@dataclass(frozen=True, slots=True)
class AddRows:
    """target += scale * rows of `tensor`, by token id, read where the file has them and as it has them.

    Of ids behind the table's end it is row `beyond`; None: there must be none.
    """

    tensor: str
    target: str
    scale: float = 1.0
    beyond: int | None = None


@dataclass(frozen=True, slots=True)
class AddPositions:
    """target += table[position], learned positions; without a tensor, segments only.

    `skip` rows of the tensor come before position 0 (RoBERTa counts from its padding id + 1). With segments
    there are position + segment rows for each in turn; the encoder counts the second one's from `context`.
    """

    tensor: str | None
    target: str
    context: int
    segments: str | None = None
    skip: int = 0
