"""How many threads and how much memory this process may really use, and what the CPU can do.

The host's core count is the wrong answer in a container: affinity and the cgroup's quota decide.
Pure Python, reads only /proc and /sys, whose root every function takes for tests; without them mac.py asks.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_serving.native import mac

_ROOT = Path("/")

# What a kernel could make use of, in the order people read it.
_ISA_FLAGS = (
    *("sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512dq"),
    *("avx512vl", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@dataclass(frozen=True, slots=True)
class CpuBudget:
    """What the scheduler of the operating system will give to this process."""

    threads: int  # to use: the affinity, cut to the quota rounded down; at least 1
    affinity: int  # logical CPUs this process may run on
    quota: float | None  # CPUs' worth of time the cgroup grants, None = unlimited
    physical: int  # cores behind the allowed logical CPUs
    logical: int  # logical CPUs of the host
    model_name: str
    isa: tuple[str, ...]  # names as in /proc/cpuinfo, only those a kernel could use


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes. `available` is what can be had now without swapping; `limit` is the cgroup's, or None."""

    total: int
    available: int
    limit: int | None

    @property
    def usable(self) -> int:
        """The smallest of the three."""
        return min(self.total, self.available, self.limit if self.limit is not None else self.total)


def cpu_budget(root: Path = _ROOT, allowed: Collection[int] | None = None) -> CpuBudget:
    """Measure now; cheap enough to call again. `allowed` replaces the affinity mask in tests."""
    cpus = set(_affinity() if allowed is None else allowed) or {0}
    info = _cpuinfo(root)
    quota = _cpu_quota(root)
    threads = len(cpus) if quota is None else min(len(cpus), int(quota + 1e-6))
    cores = {core for cpu, core in _core_of(info).items() if cpu in cpus}
    return CpuBudget(
        threads=max(1, threads),
        affinity=len(cpus),
        quota=quota,
        physical=len(cores) or len(cpus),
        logical=len(info) or os.cpu_count() or len(cpus),
        model_name=_model_name(info),
        isa=_isa(info),
    )


def memory_budget(root: Path = _ROOT) -> MemoryBudget:
    """Read /proc/meminfo and the memory limits of this process's cgroup and all above it."""
    meminfo = {
        key: int(kib) * 1024
        for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.M)
    }
    total = meminfo.get("MemTotal") or _physical_memory()
    available = meminfo.get("MemAvailable") or mac.available_bytes() or total
    limits = [
        int(text)
        for directory in _cgroup_directories(root, "memory")
        for text in (_read(directory / "memory.max"), _read(directory / "memory.limit_in_bytes"))
        if text.isdigit()
    ]
    limit = min(limits, default=None)
    # cgroup v1 writes "unlimited" as a number near 2^63.
    return MemoryBudget(total, available, None if limit and limit >= total else limit)


def memory_limit_bytes(root: Path = _ROOT) -> int:
    """The most that weights and KV together can take: MemAvailable, cut to the cgroup's limit."""
    return memory_budget(root).usable


def process_memory_bytes(root: Path = _ROOT) -> int:
    """The most that this process can take in all: what is available, and what it has taken already.

    Pages of mapped files, such as packed weights, count as available: the kernel reads them again.
    """
    taken = re.search(r"^RssAnon:\s+(\d+) kB", _read(root / "proc/self/status"), re.M)
    budget = memory_budget(root)
    available = budget.available + (int(taken[1]) * 1024 if taken else 0)
    return min(budget.total, available, budget.limit if budget.limit is not None else budget.total)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _affinity() -> set[int]:
    getter = getattr(os, "sched_getaffinity", None)  # Linux only
    return set(getter(0)) if getter else set(range(mac.performance_cores() or os.cpu_count() or 1))


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 4 << 30  # nothing to ask; small enough to be safe


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """One dictionary per logical CPU."""
    paragraphs = _read(root / "proc/cpuinfo").split("\n\n")
    tables = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        for text in paragraphs
    ]
    return [table for table in tables if table.get("processor", "").isdigit()]


def _core_of(info: list[dict[str, str]]) -> dict[int, tuple[str, str]]:
    """Logical CPU → (socket, core); a CPU that does not say is a core of its own."""
    return {
        int(cpu["processor"]): (cpu.get("physical id", "0"), cpu.get("core id", f"cpu{cpu['processor']}"))
        for cpu in info
    }


def _model_name(info: list[dict[str, str]]) -> str:
    named = next((cpu["model name"] for cpu in info if cpu.get("model name")), "")
    return named or mac.model_name() or platform.processor() or platform.machine() or "unknown"


def _isa(info: list[dict[str, str]]) -> tuple[str, ...]:
    """Flags that every CPU has: on hybrid chips a thread may be moved to any of them."""
    sets = [set((cpu.get("flags") or cpu.get("Features") or "").split()) for cpu in info]
    flags = set.intersection(*sets) if sets else set()
    if not flags and platform.machine().lower() in ("arm64", "aarch64"):
        flags = {"asimd", "asimddp"}  # of every Mac, which has no /proc to list them
    return tuple(flag for flag in _ISA_FLAGS if flag in flags)


def _cpu_quota(root: Path) -> float | None:
    """The tightest quota of this cgroup and its ancestors, in CPUs."""
    quotas = []
    for directory in _cgroup_directories(root, "cpu"):
        version2 = _read(directory / "cpu.max").split()
        version1 = [_read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")]
        for pair in (version2, version1):
            # "max" and -1 mean unlimited; neither is a positive number.
            if len(pair) == 2 and all(text.isdigit() and int(text) > 0 for text in pair):
                quotas.append(int(pair[0]) / int(pair[1]))
    return min(quotas, default=None)


def _cgroup_directories(root: Path, controller: str) -> Iterator[Path]:
    """This process's directories for a controller, leaf first, up to each mount point; v1 and v2."""
    paths = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if hierarchy == "0" and not names:
            paths["cgroup2"] = path
        elif controller in names.split(","):
            paths["cgroup"] = path
    for kind, mount_root, mount_point in _cgroup_mounts(root, controller):
        if kind not in paths:
            continue
        # A bind-mounted hierarchy shows only what lies below `mount_root`; a path outside of it
        # (another cgroup namespace) can only be looked at from the mount point on.
        path = paths[kind]
        inside = mount_root == "/" or path == mount_root or path.startswith(mount_root + "/")
        parts = [part for part in path[len(mount_root.rstrip("/")) :].split("/") if part] if inside else []
        if ".." in parts:
            parts = []
        top = root / mount_point.lstrip("/")
        for length in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:length])


def _cgroup_mounts(root: Path, controller: str) -> Iterator[tuple[str, str, str]]:
    """(file system type, root inside the hierarchy, mount point) of mounts that serve a controller."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, separator, right = line.partition(" - ")
        fields, kinds = left.split(" "), right.split(" ")
        if not separator or len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and controller in kinds[2].split(",")):
            yield kinds[0], _unescape(fields[3]), _unescape(fields[4])


def _unescape(text: str) -> str:
    """The kernel writes blanks in mountinfo as octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
