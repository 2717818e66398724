"""The kernels of ARM64 compute what those of x86 compute, bit for bit: both run here, ARM64 under emulation.

Needs Debian's `g++-aarch64-linux-gnu` and `qemu-user-static`, cmake and ninja; skipped where one is missing.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
MISSING = [tool for tool in (COMPILER, EMULATOR, "cmake", "ninja") if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.arm64,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with x86"),
]

Digests = dict[str, dict[str, str]]  # case → instruction set → hash


@pytest.fixture(scope="module")
def program() -> Path:
    """kernel_digests for ARM64."""
    cross = [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
    ]
    return build("digests-arm64", *cross)


def build(name: str, *options: str) -> Path:
    folder = ROOT / "build" / name  # kept: compiling takes minutes
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DLLM_KERNEL_DIGESTS=ON", *options],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "kernel_digests"


def digests(*command: str) -> Digests:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found: Digests = defaultdict(dict)
    for line in done.stdout.splitlines():
        isa, case, digest = line.split("\t")
        found[case][isa] = digest
    return found


def emulated(program: Path, cpu: str) -> Digests:
    return digests(EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu, str(program))


def test_neon_and_scalar_compute_on_arm64_what_x86_computes(program: Path) -> None:
    x86, arm = digests(str(build("digests-x86"))), emulated(program, "max")

    assert len(arm) > 500
    assert arm.keys() == x86.keys()
    assert all(case.keys() == {"neon", "scalar"} for case in arm.values())
    different = [name for name in arm if len({*arm[name].values(), *x86[name].values()}) > 1]
    assert different == []


def test_a_cpu_without_the_dot_product_runs_scalar_kernels(program: Path) -> None:
    cases = emulated(program, "cortex-a53")
    assert len(cases) > 500
    assert all(case.keys() == {"scalar"} for case in cases.values())
