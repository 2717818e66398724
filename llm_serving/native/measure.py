"""The machine's two limits: how fast it reads memory, and how fast it multiplies and adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_serving.native.core import load_core
from llm_serving.native.cpu import memory_budget

READ_BYTES = 1 << 30  # far more than any cache holds
_READ_REPEATS = 12
_PEAK_REPEATS = 5
_PEAK_SECONDS = 0.06

# Name in C++ -> what people call it, and what is counted: a multiply and an add are two operations.
INSTRUCTIONS = {
    "vpmaddubsw": "int8, AVX2 (vpmaddubsw + vpaddw)",
    "vpmaddwd": "int16, AVX2 (vpmaddwd + vpaddd)",
    "vpdpbusd": "int8, VNNI (vpdpbusd, 256 bits)",
    "vpdpbusd-512": "int8, VNNI (vpdpbusd, 512 bits)",
    "vfmadd-f32": "f32, FMA (vfmadd, 256 bits)",
    "sdot": "int8, ARM dot product (sdot, 128 bits)",
    "fmla-f32": "f32, ARM (fmla, 128 bits)",
}
INT8_INSTRUCTIONS = ("vpmaddubsw", "vpdpbusd", "vpdpbusd-512", "sdot")
_REAL_CORES = 0.75  # SMT siblings together do about what one does, seldom 1.5 times as much


@dataclass(frozen=True, slots=True)
class Rate:
    """Per second, the best of several runs: with one thread, and with all."""

    one: float
    all: float

    @property
    def ratio(self) -> float:
        return self.all / self.one


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """`read` counts bytes; `peaks` counts operations, None where this CPU lacks the instruction."""

    threads: int
    read_bytes: int  # length of what was read
    read: Rate
    peaks: dict[str, Rate | None]  # keys of INSTRUCTIONS

    @property
    def cores_are_real(self) -> bool | None:
        """Whether threads have execution units of their own; None for one thread, or if no peak is known."""
        ratios = [peak.ratio for peak in self.peaks.values() if peak is not None]
        if self.threads == 1 or not ratios:
            return None
        return max(ratios) >= _REAL_CORES * self.threads


def machine_limits(
    threads: int,
    *,
    num_bytes: int = 0,
    seconds: float = _PEAK_SECONDS,
    on_progress: Callable[[str], None] = lambda text: None,
) -> MachineLimits:
    """Measure for about seven seconds; nothing else should run meanwhile. `seconds` is of one run of a peak.

    `num_bytes` is the length of what is read; 0 takes 1 GiB, or a quarter of the memory if that is less.
    `on_progress` is told what comes next. Raises: ExtensionMissing; MemoryError.
    """
    core = load_core()
    num_bytes = num_bytes or min(READ_BYTES, memory_budget().usable // 4)
    on_progress("streaming reads")
    reads = [core.read_rates(num_bytes, threads, _READ_REPEATS)]
    measurable = set(core.measurable_instructions())
    peaks: dict[str, Rate | None] = {}
    for name, text in INSTRUCTIONS.items():
        if name in measurable:
            on_progress(text)
        peaks[name] = Rate(*core.peaks(name, threads, seconds, _PEAK_REPEATS)) if name in measurable else None
    on_progress("streaming reads again")  # a virtual machine's neighbours take their share and give it back
    reads.append(core.read_rates(num_bytes, threads, _READ_REPEATS))
    read = Rate(*(max(rates) for rates in zip(*reads, strict=True)))
    return MachineLimits(threads, num_bytes, read, peaks)
