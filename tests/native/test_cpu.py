"""The budget is what the cgroup and the affinity grant, never the host's core count."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_serving.native import cpu

V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def cpuinfo(count: int, cores: int, flags: str = "fpu sse4_2 avx avx2 fma f16c") -> str:
    return "\n\n".join(
        f"processor\t: {i}\nmodel name\t: Test CPU\nphysical id\t: 0\ncore id\t\t: {i % cores}\n"
        f"flags\t\t: {flags}"
        for i in range(count)
    )


def version2(root: Path, **more: str) -> Path:
    files = {
        "proc/cpuinfo": cpuinfo(8, 4),
        "proc/meminfo": "MemTotal:       16777216 kB\nMemAvailable:   12582912 kB\n",
        "proc/self/cgroup": "0::/kube/pod/box\n",
        "proc/self/mountinfo": V2_MOUNT,
    }
    return write(root, {**files, **{key.replace("__", "/"): value for key, value in more.items()}})


def limits(root: Path, path: str, **values: str) -> None:
    names = {"cpu_max": "cpu.max", "memory_max": "memory.max"}
    write(root, {f"sys/fs/cgroup/{path}/{names[key]}": value for key, value in values.items()})


def test_without_a_quota_the_affinity_decides(tmp_path: Path) -> None:
    limits(version2(tmp_path), "kube/pod/box", cpu_max="max 100000\n")
    budget = cpu.cpu_budget(tmp_path, {0, 1, 4, 5, 6})
    assert (budget.threads, budget.affinity, budget.quota) == (5, 5, None)
    assert (budget.physical, budget.logical) == (3, 8)  # 0+4, 1+5 share a core
    assert budget.model_name == "Test CPU"
    assert budget.isa == ("sse4_2", "avx", "f16c", "fma", "avx2")


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("50000", 1), ("100000", 1), ("199999", 1), ("200000", 2), ("765000", 7), ("9900000", 8)],
)
def test_the_quota_is_rounded_down_and_never_to_zero(tmp_path: Path, quota: str, threads: int) -> None:
    limits(version2(tmp_path), "kube/pod/box", cpu_max=f"{quota} 100000\n")
    budget = cpu.cpu_budget(tmp_path, range(8))
    assert budget.threads == threads
    assert budget.quota == int(quota) / 100000


def test_the_tightest_ancestor_wins(tmp_path: Path) -> None:
    version2(tmp_path)
    limits(tmp_path, "kube/pod/box", cpu_max="600000 100000", memory_max="max")
    limits(tmp_path, "kube/pod", cpu_max="300000 100000", memory_max=str(3 * GIB))
    limits(tmp_path, "kube", cpu_max="max 100000", memory_max=str(5 * GIB))
    assert cpu.cpu_budget(tmp_path, range(8)).threads == 3
    assert cpu.memory_limit_bytes(tmp_path) == 3 * GIB


def test_what_this_process_has_taken_is_its_own(tmp_path: Path) -> None:
    version2(tmp_path)
    assert cpu.process_memory_bytes(tmp_path) == 12 * GIB
    write(tmp_path, {"proc/self/status": f"VmRSS:\t{3 << 20} kB\nRssAnon:\t {1 << 20} kB\n"})
    assert cpu.process_memory_bytes(tmp_path) == 13 * GIB
    limits(tmp_path, "kube", memory_max=str(5 * GIB))
    assert cpu.process_memory_bytes(tmp_path) == 5 * GIB


def test_version_1_in_a_container_sees_its_own_subtree(tmp_path: Path) -> None:
    version2(tmp_path)
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc/inner\n2:cpu,cpuacct:/docker/abc/inner\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/inner/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        },
    )
    budget = cpu.cpu_budget(tmp_path, range(8))
    assert (budget.threads, budget.quota) == (2, 2.5)
    assert cpu.memory_budget(tmp_path) == cpu.MemoryBudget(16 * GIB, 12 * GIB, 2 * GIB)


@pytest.mark.parametrize(
    ("quota", "threads", "granted"),
    [("-1", 4, None), ("50000", 1, 0.5), ("100000", 1, 1.0), ("150000", 1, 1.5), ("200000", 2, 2.0)],
)
def test_a_version_1_quota_is_read_beside_an_empty_version_2(
    tmp_path: Path, quota: str, threads: int, granted: float | None
) -> None:
    version2(tmp_path)
    write(
        tmp_path,
        {
            "proc/self/cgroup": "1:cpu:/box\n0::/\n",
            "proc/self/mountinfo": "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
            "33 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": quota,
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
        },
    )
    budget = cpu.cpu_budget(tmp_path, range(4))
    assert (budget.threads, budget.quota) == (threads, granted)


def test_the_affinity_cuts_a_larger_quota(tmp_path: Path) -> None:
    limits(version2(tmp_path), "kube/pod/box", cpu_max="300000 100000")
    assert cpu.cpu_budget(tmp_path, {2}).threads == 1


def test_a_path_outside_the_mount_falls_back_to_the_mount_point(tmp_path: Path) -> None:
    version2(tmp_path)
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../elsewhere\n",
            "proc/self/mountinfo": V2_MOUNT.replace("0:28 /", "0:28 /docker/abc").replace(
                "cgroup rw", "c\\040g rw"
            ),
            "sys/fs/c g/cpu.max": "100000 100000",
        },
    )
    assert cpu.cpu_budget(tmp_path, range(4)).threads == 1


def test_an_unlimited_version_1_group_is_no_limit(tmp_path: Path) -> None:
    version2(tmp_path)
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n",
            "proc/self/mountinfo": "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert cpu.memory_budget(tmp_path).limit is None
    assert cpu.memory_limit_bytes(tmp_path) == 12 * GIB


def test_a_hybrid_chip_offers_only_what_all_cores_have(tmp_path: Path) -> None:
    text = cpuinfo(1, 1, "avx2 avx512f") + "\n\n" + cpuinfo(2, 2, "avx2").split("\n\n")[1]
    version2(tmp_path, proc__cpuinfo=text)
    assert cpu.cpu_budget(tmp_path, {0, 1}).isa == ("avx2",)


def test_a_system_without_proc_still_answers(tmp_path: Path) -> None:
    budget = cpu.cpu_budget(tmp_path)
    assert budget.threads == budget.affinity >= 1
    assert budget.quota is None
    assert budget.model_name
    assert cpu.memory_limit_bytes(tmp_path) > 0


@pytest.mark.parametrize("junk", ["", "0", "max", "-5 100000", "100000 0", "a b", "1 2 3", "\x00\xff"])
def test_junk_in_the_quota_file_is_no_quota(tmp_path: Path, junk: str) -> None:
    limits(version2(tmp_path), "kube/pod/box", cpu_max=junk)
    assert cpu.cpu_budget(tmp_path, range(4)).threads == 4


def test_this_machine_has_a_sane_budget() -> None:
    budget = cpu.cpu_budget()
    assert 1 <= budget.threads <= budget.affinity
    assert 1 <= budget.physical <= budget.logical
    assert cpu.memory_limit_bytes() > 1 << 20
