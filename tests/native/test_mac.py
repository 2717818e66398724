"""What macOS prints, read; its programs themselves are not here."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from llm_serving.native import cpu, mac

# As `man vm_stat` and a Mac with 16 KB pages print it.
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               61221.
Pages active:                            423523.
Pages inactive:                          402139.
Pages speculative:                        20014.
Pages wired down:                        129110.
"""


def on_a_mac(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str | Exception]) -> None:
    """`answers` by the last word of a command; what is not there is unknown to its program."""

    def run(command: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[str]:
        answer = answers.get(command[-1], subprocess.CalledProcessError(1, command))
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, stdout=answer)

    monkeypatch.setattr(mac.sys, "platform", "darwin")
    monkeypatch.setattr(mac.subprocess, "run", run)


def test_a_mac_tells_fast_cores_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"hw.perflevel0.physicalcpu": "4\n", "machdep.cpu.brand_string": "Apple M1\n"}
    on_a_mac(monkeypatch, {**names, "/usr/bin/vm_stat": VM_STAT})
    assert mac.performance_cores() == 4
    assert mac.model_name() == "Apple M1"
    assert mac.available_bytes() == (61221 + 402139) * 16384


def test_an_older_mac_has_one_kind_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_mac(monkeypatch, {})
    assert mac.performance_cores() is None
    assert mac.model_name() is None


@pytest.mark.parametrize(
    "answer", ["", "Pages free: 12.", FileNotFoundError("vm_stat"), subprocess.TimeoutExpired("vm_stat", 5)]
)
def test_memory_that_is_not_told_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception
) -> None:
    on_a_mac(monkeypatch, {"/usr/bin/vm_stat": answer})
    assert mac.available_bytes() is None


def test_budgets_without_proc_ask_the_mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    names = {"hw.perflevel0.physicalcpu": "4\n", "machdep.cpu.brand_string": "Apple M1\n"}
    on_a_mac(monkeypatch, {**names, "/usr/bin/vm_stat": VM_STAT})
    monkeypatch.delattr(cpu.os, "sched_getaffinity")
    budget = cpu.cpu_budget(tmp_path)
    assert (budget.threads, budget.model_name) == (4, "Apple M1")
    assert cpu.memory_budget(tmp_path).available == (61221 + 402139) * 16384
