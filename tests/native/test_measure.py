"""The machine's limits: small and short here, so orders of magnitude are what can be asserted."""

from __future__ import annotations

import pytest

from llm_serving.native.core import load_core
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.measure import INSTRUCTIONS, MachineLimits, Rate, machine_limits


@pytest.fixture(scope="module")
def limits() -> MachineLimits:
    said: list[str] = []
    limits = machine_limits(2, num_bytes=(8 << 20) + 1, seconds=0.001, on_progress=said.append)
    measured = [INSTRUCTIONS[name] for name, peak in limits.peaks.items() if peak is not None]
    assert said == ["streaming reads", *measured, "streaming reads again"]
    return limits


def test_figures_are_sensible(limits: MachineLimits) -> None:
    assert (limits.threads, limits.read_bytes) == (2, (8 << 20) + 1)
    assert 1e8 < limits.read.one < 1e12
    assert 1e8 < limits.read.all < 1e13
    assert set(limits.peaks) == set(INSTRUCTIONS)
    for peak in limits.peaks.values():
        assert peak is None or (1e8 < peak.one < 1e13 and 1e8 < peak.all < 1e14)


def test_narrower_numbers_are_faster() -> None:
    """Half the width is twice the rate. A neighbour may take the core at any time, but not every time."""
    core = load_core()
    if "vpmaddubsw" not in core.measurable_instructions():
        pytest.skip("this CPU has no AVX2")
    rates = [[core.peaks(name, 1, 0.001, 1)[0] for name in ("vpmaddubsw", "vpmaddwd")] for _ in range(20)]
    assert any(int8 > 1.5 * int16 for int8, int16 in rates)


def test_what_the_cpu_has_is_measured(limits: MachineLimits) -> None:
    flags = set(cpu_budget().isa)
    assert (limits.peaks["sdot"] is not None) == ("asimddp" in flags)
    assert (limits.peaks["fmla-f32"] is not None) == ("asimd" in flags)
    assert (limits.peaks["vpmaddubsw"] is not None) == ("avx2" in flags)
    has_vnni = "avx_vnni" in flags or {"avx512vl", "avx512_vnni"} <= flags
    assert (limits.peaks["vpdpbusd"] is not None) == has_vnni


def test_what_ratios_say_about_cores() -> None:
    def verdict(threads: int, *ratios: float) -> bool | None:
        peaks: dict[str, Rate | None] = dict.fromkeys(INSTRUCTIONS)
        peaks.update(zip(INSTRUCTIONS, (Rate(1e9, ratio * 1e9) for ratio in ratios), strict=False))
        return MachineLimits(threads, 1, Rate(1e9, 1e9), peaks).cores_are_real

    assert verdict(2, 1.9, 1.4) is True
    assert verdict(2, 1.0, 1.3) is False
    assert verdict(8, 4.1) is False
    assert verdict(1, 1.0) is None
    assert verdict(2) is None


def test_an_unknown_instruction_is_refused() -> None:
    with pytest.raises(ValueError, match="not measurable"):
        load_core().peaks("vpnothing", 1, 0.001, 1)
