"""Kernels for CPUs that this one is not compute what its own compute, bit for bit.

ARM64 runs under emulation and needs Debian's `g++-aarch64-linux-gnu` and `qemu-user-static`; AVX-VNNI is
compiled as a CPU with AVX-512 encodes it, and needs that. Both need cmake and ninja. Skipped where one
is missing.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from llm_serving.native.cpu import cpu_budget

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with x86"),
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("ninja")), reason="needs cmake and ninja"),
]
for_arm64 = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}"
)

HAS_AVX512 = {"avx512vl", "avx512_vnni"} <= set(cpu_budget().isa)

Digests = dict[str, dict[str, str]]  # case → instruction set → hash


@pytest.fixture(scope="module")
def x86() -> Digests:
    """What the instruction sets of this CPU compute; AVX-VNNI is one of them if it has that or AVX-512's."""
    options = [f"-DLLM_COMPILED_KERNELS={compiled_kernels()}", f"-DLLM_VNNI_OF_AVX512={HAS_AVX512}"]
    return digests(str(build("digests-x86", *options)))


@pytest.fixture(scope="module")
def program() -> Path:
    """kernel_digests for ARM64."""
    cross = [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
    ]
    return build("digests-arm64", *cross)


def compiled_kernels() -> str:
    """Where the installed extension's were compiled, if nothing has changed since; or nothing."""
    sources = [ROOT / "CMakeLists.txt", *(ROOT / "llm_serving/native/src").iterdir()]
    newest = max(path.stat().st_mtime for path in sources)
    modules = (ROOT / "build").glob("cp*/_llm_serving_native*.so")  # linked when all else is there
    return next((str(path.parent) for path in modules if path.stat().st_mtime > newest), "")


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
def test_neon_and_scalar_compute_on_arm64_what_x86_computes(x86: Digests, program: Path) -> None:
    arm = emulated(program, "max")
    assert arm.keys() == x86.keys()
    assert all(case.keys() == {"neon", "scalar"} for case in arm.values())
    assert different(arm, x86) == []


@for_arm64
def test_a_cpu_without_the_dot_product_runs_scalar_kernels(program: Path) -> None:
    cases = emulated(program, "cortex-a53")
    assert len(cases) > 500
    assert all(case.keys() == {"scalar"} for case in cases.values())
