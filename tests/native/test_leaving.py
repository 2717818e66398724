"""A program that ends while a thread of its own packs weights ends in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tiny_models import write_tiny_llama

PROGRAM = """
import sys, threading, time
import numpy as np
from llm_serving.checkpoints import Tensor, open_checkpoint
from llm_serving.native.packed_weights import PackedWeights
from llm_serving.native.plan import core_plan

checkpoint = open_checkpoint(sys.argv[1])
values = np.zeros(4 << 20, np.float32).view(np.uint8)
large = Tensor("large", "F32", (4096, 1024), values)
packing = threading.Event()

def pack_for_ever():
    plan = core_plan(threads=1, isa="auto", max_tokens=1, max_context=1)
    weights = PackedWeights(plan, checkpoint, "q8", None)
    packing.set()
    for number in range(1000):
        weights.matrix(large, 0, "q8")

threading.Thread(target=pack_for_ever, daemon=True).start()
packing.wait()
time.sleep(0.05)
print("leaving")
"""


def test_leaving_while_weights_are_packed(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_llama(model)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(model)], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, "leaving\n"), done.stderr
