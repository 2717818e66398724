"""llama.cpp through its own `llama-batched-bench`, one process a measurement; --program is that binary.

The context is computed once and copied to every sequence (`-pps`; each has a KV stream of its own, so a
decode step costs what separate prompts cost). Loading is not counted. A prompt is measured twice, and the
second counts.
"""

from __future__ import annotations

import json
import subprocess

from worker import arguments, quiet_stdout, serve


class LlamaCpp:
    def __init__(self, program: str, model: str, threads: int) -> None:
        self._command = [program, "-m", model, "-t", str(threads), "-tb", str(threads)]
        self._command += ["--output-format", "jsonl"]

    def prefill(self, tokens: int) -> float:
        sizes = ["-npp", f"{tokens},{tokens}", "-ntg", "1", "-npl", "1", "-c", str(_cells(tokens + 1))]
        return float(self._run(sizes)[-1]["speed_pp"])

    def decode(self, sequences: int, context: int, steps: int) -> float:
        sizes = ["-npp", str(context), "-ntg", str(steps), "-npl", str(sequences), "-pps"]
        rows = self._run([*sizes, "-c", str(sequences * _cells(context + steps + 1))])
        return float(rows[-1]["speed_tg"])

    def _run(self, sizes: list[str]) -> list[dict[str, float]]:
        done = subprocess.run([*self._command, *sizes], capture_output=True, text=True, check=False)
        lines = (done.stdout + "\n" + done.stderr).splitlines()
        rows = [json.loads(line[line.index("{") :]) for line in lines if '"speed_tg"' in line]
        if not rows:
            raise RuntimeError(f"llama-batched-bench said nothing: {done.stderr[-300:]}")
        return rows


def _cells(tokens: int) -> int:
    """A stream's KV size is a multiple of 256."""
    return -(-tokens // 256) * 256


if __name__ == "__main__":
    answers, told = quiet_stdout(), arguments()
    serve(LlamaCpp(told.program, told.model, told.threads), answers)
