"""Packed weights that several processes write, and one that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from packed_starts import packed_files, start
from tiny_models import write_tiny_llama

__all__ = ["start"]

PROGRAM = """
import sys, threading
from pathlib import Path
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.native import packed_file

if len(sys.argv) > 3:
    count = 0
    def add(self, *args, old=packed_file.PackedWriter.add):
        global count
        old(self, *args)
        count += 1
        if count == int(sys.argv[3]):
            print("writing", flush=True)
            threading.Event().wait(60)
    packed_file.PackedWriter.add = add
options = EngineOptions(threads=1, max_concurrency=1, packed_dir=Path(sys.argv[2]), packed_bytes=1 << 30)
build_runner(open_checkpoint(sys.argv[1]), options).close()
"""


def other_process(model: Path, directory: Path, stop_at: int | None = None) -> subprocess.Popen[str]:
    more = [] if stop_at is None else [str(stop_at)]
    command = [sys.executable, "-c", PROGRAM, str(model), str(directory), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_while_writing(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    process = other_process(model, tmp_path / "packed", stop_at=5)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    (partial,) = packed_files(tmp_path)
    beside = start(model)  # another one writes at the same time, and leaves the first one's file alone
    assert beside.adopted == 0
    assert partial in packed_files(tmp_path)
    assert len(packed_files(tmp_path)) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    start(model, quantization="q8")  # writes, and removes what nobody writes any more
    assert {path.suffix for path in packed_files(tmp_path)} == {".packed"}
    assert start(model).packed == 0


def test_two_processes_at_once(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    processes = [other_process(model, tmp_path / "packed") for _ in range(2)]
    for process in processes:
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()
    assert len(packed_files(tmp_path)) == 1
    again = start(model)
    assert again.packed == 0
    assert again.logits.tobytes() == start(model, limit=0).logits.tobytes()
