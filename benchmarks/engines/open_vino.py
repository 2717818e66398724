"""OpenVINO GenAI's continuous batching on the same GGUF file; it also samples (greedy), which the others
do not.

python3 -m venv ~/peers/openvino && ~/peers/openvino/bin/pip install openvino-genai==2026.4.1
"""

from __future__ import annotations

import time

import numpy as np
import openvino
import openvino_genai
from worker import arguments, quiet_stdout, serve


class OpenVino:
    def __init__(self, model: str, threads: int, max_sequences: int, max_context: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = 512
        scheduler.max_num_seqs = max_sequences
        scheduler.enable_prefix_caching = False
        scheduler.cache_size = 4
        properties = {"INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self._rng = np.random.default_rng(0)
        self._requests = 0
        self.prefill(32)

    def prefill(self, tokens: int) -> float:
        started_s = time.perf_counter()
        handle = self._add(tokens, 1)
        while not handle.can_read():
            self._pipeline.step()
        return tokens / (time.perf_counter() - started_s)

    def decode(self, sequences: int, context: int, steps: int) -> float:
        handles = [self._add(context, steps + 1 + 2 * sequences) for _ in range(sequences)]
        waiting = set(range(sequences))
        while waiting:  # every prompt has given its first token
            self._pipeline.step()
            waiting -= {i for i in waiting if handles[i].can_read()}
        started_s = time.perf_counter()
        for _ in range(steps):
            self._pipeline.step()
        rate = sequences * steps / (time.perf_counter() - started_s)
        for handle in handles:
            handle.cancel()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return rate

    def _add(self, tokens: int, new_tokens: int) -> openvino_genai.GenerationHandle:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        ids = self._rng.integers(100, 40000, (1, tokens), dtype=np.int64)
        self._requests += 1
        return self._pipeline.add_request(self._requests, openvino.Tensor(ids), config)


if __name__ == "__main__":
    answers, told = quiet_stdout(), arguments()
    serve(OpenVino(told.model, told.threads, told.max_sequences, told.max_context), answers)
