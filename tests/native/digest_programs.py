"""Compiles kernel_digests.cpp for x86 and for ARM64, as far as the tools are there."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from llm_serving.native.cpu import cpu_budget

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"

IS_X86 = platform.machine() == "x86_64"
CAN_BUILD = all(map(shutil.which, ("cmake", "ninja")))
CAN_BUILD_FOR_ARM64 = CAN_BUILD and all(map(shutil.which, (COMPILER, EMULATOR)))
HAS_AVX512 = {"avx512vl", "avx512_vnni"} <= set(cpu_budget().isa)


def program_of_x86() -> Path:
    """Of this CPU's instruction sets; AVX-VNNI is one of them if it has that or AVX-512's."""
    options = [f"-DLLM_COMPILED_KERNELS={_compiled_kernels()}", f"-DLLM_VNNI_OF_AVX512={HAS_AVX512}"]
    return _build("digests-x86", *options)


def program_of_arm64() -> Path:
    cross = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    return _build("digests-arm64", *cross, f"-DCMAKE_CXX_COMPILER={COMPILER}")


def _compiled_kernels() -> str:
    """Where the installed extension's were compiled, if nothing has changed since; or nothing."""
    sources = [ROOT / "CMakeLists.txt", *(ROOT / "llm_serving/native/src").iterdir()]
    newest = max(path.stat().st_mtime for path in sources)
    modules = (ROOT / "build").glob("cp*/_llm_serving_native*.so")  # linked when all else is there
    return next((str(path.parent) for path in modules if path.stat().st_mtime > newest), "")


def _build(name: str, *options: str) -> Path:
    folder = ROOT / "build" / name  # kept: compiling takes minutes
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DLLM_KERNEL_DIGESTS=ON", *options],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return folder / "kernel_digests"
