"""Kernels for CPUs that this one is not compute what its own compute, bit for bit.

ARM64 runs under emulation and needs Debian's `g++-aarch64-linux-gnu` and `qemu-user-static`; AVX-VNNI is
compiled as a CPU with AVX-512 encodes it, and needs that. Both need cmake and ninja. Skipped where one
is missing.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from digest_programs import (
    CAN_BUILD,
    CAN_BUILD_FOR_ARM64,
    COMPILER,
    EMULATOR,
    HAS_AVX512,
    IS_X86,
    program_of_arm64,
    program_of_x86,
)

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(not IS_X86, reason="compares with x86"),
    pytest.mark.skipif(not CAN_BUILD, reason="needs cmake and ninja"),
]
for_arm64 = pytest.mark.skipif(not CAN_BUILD_FOR_ARM64, reason=f"needs {COMPILER} and {EMULATOR}")

Digests = dict[str, dict[str, str]]  # case → instruction set → hash


@pytest.fixture(scope="module")
def x86() -> Digests:
    return digests(str(program_of_x86()))


@pytest.fixture(scope="module")
def arm() -> dict[str, Digests]:
    """By CPU: the best that is emulated, and one without the dot product; one core emulates each."""
    command = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-cpu"]
    program, cpus = str(program_of_arm64()), ("max", "cortex-a53")
    with ThreadPoolExecutor(len(cpus)) as pool:
        return dict(zip(cpus, pool.map(lambda cpu: digests(*command, cpu, program), cpus), strict=True))


def digests(*command: str) -> Digests:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found: Digests = defaultdict(dict)
    for line in done.stdout.splitlines():
        isa, case, digest = line.split("\t")
        found[case][isa] = digest
    return found


def different(*found: Digests) -> list[str]:
    """Cases that have more than one result."""
    return [case for case in found[0] if len({one for each in found for one in each[case].values()}) > 1]


def test_all_sets_of_x86_compute_the_same(x86: Digests) -> None:
    sets = next(iter(x86.values())).keys()
    assert "scalar" in sets
    assert not HAS_AVX512 or {"avx512", "avxvnni"} <= sets
    assert len(x86) > 500
    assert all(case.keys() == sets for case in x86.values())
    assert different(x86) == []


@for_arm64
def test_neon_and_scalar_compute_on_arm64_what_x86_computes(x86: Digests, arm: dict[str, Digests]) -> None:
    cases = arm["max"]
    assert cases.keys() == x86.keys()
    assert all(case.keys() == {"neon", "scalar"} for case in cases.values())
    assert different(cases, x86) == []


@for_arm64
def test_a_cpu_without_the_dot_product_runs_scalar_kernels(arm: dict[str, Digests]) -> None:
    cases = arm["cortex-a53"]
    assert len(cases) > 500
    assert all(case.keys() == {"scalar"} for case in cases.values())
