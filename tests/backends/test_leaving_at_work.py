"""A process that ends while an engine is at work, which nobody has closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import write_tiny_llama

CHAT = """
import asyncio, sys
from llm_serving.config import Settings
from llm_serving.engine.request import GenerateRequest, SamplingParams
from llm_serving.service.loader import load_chat_model

async def begin(model):
    sampling = SamplingParams(max_tokens=10_000)
    stream = await model.engine.submit(GenerateRequest("r", list(range(9)), sampling))
    await stream.__aenter__()
    await stream.__anext__()

model = load_chat_model(Settings(model_name=sys.argv[1], embedding_model="", packed_cache=0))
asyncio.run(begin(model))
"""
ENCODER = """
import asyncio, sys
import numpy as np
from llm_serving.backends.fake_encoder import FakeEncoder
from llm_serving.embeddings.batcher import Batcher
from llm_serving.embeddings.encoder import EncoderInput

class Slow(FakeEncoder):
    def encode(self, batch):
        for _ in range(50):
            np.sort(np.random.default_rng(0).random(100_000))
        print("whole", flush=True)
        return super().encode(batch)

async def begin():
    batcher = Batcher(Slow(), max_batch_tokens=16, max_queue_texts=100)
    asyncio.ensure_future(batcher.encode([EncoderInput([1, 2, 3])]))
    while not batcher.stats().num_running:
        await asyncio.sleep(0.001)

asyncio.run(begin())
"""


@pytest.mark.parametrize(("program", "said"), [(CHAT, ""), (ENCODER, "whole\n")], ids=["chat", "encoder"])
def test_the_end_of_a_process_waits_for_the_step_at_hand(program: str, said: str, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", said)
