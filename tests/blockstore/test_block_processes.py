"""One directory, several processes, some of which are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from patience import wait_until

from llm_serving.blockstore.store import DiskBlockStore

SIZE = 50_000
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
from llm_serving.blockstore.store import DiskBlockStore

first, limit = int(sys.argv[2]), int(sys.argv[3])
store = DiskBlockStore(Path(sys.argv[1]), limit, bytes(16), 50_000)
print("writing", flush=True)
for number in range(first, first + int(sys.argv[4])):
    while not store.save(number.to_bytes(16, "little"), 0, lambda out: out.fill(number % 251)):
        pass
store.close()
"""


def other_process(directory: Path, first: int, limit: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(directory), str(first), str(limit), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.stdout.close()
    return process


def num_whole(directory: Path, numbers: range) -> int:
    store = DiskBlockStore(directory, 1 << 30, bytes(16), SIZE)
    out = np.empty(SIZE, np.uint8)
    count = 0
    for number in numbers:
        if store.load(number.to_bytes(16, "little"), 0, out):
            assert (out == number % 251).all()
            count += 1
    store.close()
    return count


def test_killed_while_writing(tmp_path: Path) -> None:
    for turn in range(3):
        process = other_process(tmp_path, 0, 1 << 30, 100_000)
        wait_until(lambda: len(list(tmp_path.glob("*.kv"))) >= 20 * (turn + 1))  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
        count = len(list(tmp_path.glob("*.kv")))
        assert num_whole(tmp_path, range(100_000 if count > 99_000 else count + 100)) == count


def test_two_at_once_share_one_bound(tmp_path: Path) -> None:
    limit = 40 * SIZE
    processes = [other_process(tmp_path, first, limit, 150) for first in (0, 100)]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, len(list(tmp_path.glob("*.kv"))))
    assert [process.wait() for process in processes] == [0, 0]
    most = max(most, len(list(tmp_path.glob("*.kv"))))
    assert 20 < most <= 41
    assert num_whole(tmp_path, range(250)) == len(list(tmp_path.glob("*.kv")))
