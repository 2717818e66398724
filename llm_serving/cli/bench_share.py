"""The engine's rates as shares of the machine's limits."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.cli.bench_engine import Rate
from llm_serving.native.measure import INT8_INSTRUCTIONS, MachineLimits
from llm_serving.native.work import MatrixWork


@dataclass(frozen=True, slots=True)
class Share:
    """What the matrices take per second, and how much that is of what can be had; None where it is unknown.

    Operations are compared with the greatest int8 peak, bytes of weights that decode reads with the rate of
    streaming reads. Attention and the KV cache are not counted, so shares are a little too low.
    """

    gop_s: float
    of_peak: float | None
    weights_gb_s: float | None
    of_read: float | None


def share_of(rate: Rate, work: MatrixWork, limits: MachineLimits) -> Share:
    """Of the rate's median, with all threads."""
    prefill = rate.work == "prefill"
    runs_s = rate.median / rate.size  # prompts, or steps
    operations_s = runs_s * work.operations(rate.size, rows=1 if prefill else rate.size)
    peak = int8_peak(limits)
    read_s = None if prefill else runs_s * work.step_bytes
    return Share(
        gop_s=operations_s / 1e9,
        of_peak=None if peak is None else operations_s / peak[1],
        weights_gb_s=None if read_s is None else read_s / 1e9,
        of_read=None if read_s is None else read_s / limits.read.all,
    )


def int8_peak(limits: MachineLimits) -> tuple[str, float] | None:
    """The instruction that gets most done here, and its operations per second; None where none is known."""
    peaks = {name: peak.all for name in INT8_INSTRUCTIONS if (peak := limits.peaks[name]) is not None}
    return max(peaks.items(), key=lambda item: item[1], default=None)


def share_cells(share: Share) -> list[str]:
    """GOP/s, share of the peak, GB/s, share of the reads."""
    return [
        f"{share.gop_s:.1f}",
        _percent(share.of_peak),
        "-" if share.weights_gb_s is None else f"{share.weights_gb_s:.1f}",
        _percent(share.of_read),
    ]


def limits_line(limits: MachineLimits) -> str:
    """What 100 % is."""
    peak = int8_peak(limits)
    int8 = "an unknown int8 peak" if peak is None else f"{peak[1] / 1e9:.1f} GOP/s ({peak[0]})"
    return f"100 % is {int8} and {limits.read.all / 1e9:.1f} GB/s; matrices only, without attention"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
