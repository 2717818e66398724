"""What macOS tells of its CPU and memory: it has no /proc. Each answer is None where there is none."""

from __future__ import annotations

import re
import subprocess
import sys

_SECONDS = 5


def performance_cores() -> int | None:
    """Cores of the fast kind (`hw.perflevel0.physicalcpu`): a barrier would wait for the slow ones."""
    told = _run("/usr/sbin/sysctl", "-n", "hw.perflevel0.physicalcpu")
    return int(told) if told.isdigit() and int(told) else None


def model_name() -> str | None:
    """For example "Apple M1"."""
    return _run("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string") or None


def available_bytes() -> int | None:
    """Memory that is free, and what the kernel can give away at once (inactive pages), by `vm_stat`."""
    told = _run("/usr/bin/vm_stat")
    size = re.search(r"page size of (\d+) bytes", told)
    pages = re.findall(r"^Pages (?:free|inactive):\s+(\d+)\.", told, re.M)
    return int(size[1]) * sum(map(int, pages)) if size and len(pages) == 2 else None


def _run(*command: str) -> str:
    if sys.platform != "darwin":
        return ""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
