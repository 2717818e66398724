"""Shares of the limits: known work, known limits, so every figure can be checked by hand."""

from __future__ import annotations

import pytest

from llm_serving.cli.bench_engine import Rate
from llm_serving.cli.bench_share import limits_line, share_cells, share_of
from llm_serving.native import measure
from llm_serving.native.measure import INSTRUCTIONS, MachineLimits
from llm_serving.native.work import MatrixWork

WORK = MatrixWork(step_bytes=100_000_000, token_operations=200_000_000, row_operations=50_000_000)
PEAKS = {
    **dict.fromkeys(INSTRUCTIONS),
    "vpmaddubsw": measure.Rate(1e11, 2e11),
    "vfmadd-f32": measure.Rate(9e11, 9e11),
}
LIMITS = MachineLimits(2, 1, measure.Rate(2e10, 4e10), PEAKS)


def test_prefill_is_a_share_of_the_int8_peak() -> None:
    share = share_of(Rate("prefill", 100, 500.0, 600.0), WORK, LIMITS)
    operations_s = 5 * (100 * 2e8 + 5e7)
    assert share.gop_s == pytest.approx(operations_s / 1e9)
    assert share.of_peak == pytest.approx(operations_s / 2e11)
    assert share_cells(share)[2:] == ["-", "-"]


@pytest.mark.parametrize(("batch", "tokens_s"), [(1, 100.0), (16, 1600.0)])
def test_decode_reads_the_weights_once_a_step(batch: int, tokens_s: float) -> None:
    share = share_of(Rate("decode", batch, tokens_s, tokens_s), WORK, LIMITS)
    assert share.gop_s == pytest.approx(batch * 25.0)
    assert share.weights_gb_s == pytest.approx(10.0)
    assert share.of_read == pytest.approx(0.25)


def test_without_a_known_peak_there_is_no_share_of_it() -> None:
    unknown = MachineLimits(2, 1, LIMITS.read, dict.fromkeys(INSTRUCTIONS))
    share = share_of(Rate("decode", 1, 100.0, 100.0), WORK, unknown)
    assert share_cells(share) == ["25.0", "-", "10.0", "25%"]
    assert "unknown int8 peak" in limits_line(unknown)
    assert "200.0 GOP/s (vpmaddubsw) and 40.0 GB/s" in limits_line(LIMITS)
