"""Transformers' `generate()` in f32 on a directory of safetensors, which peer_files.py writes.

python3 -m venv ~/peers/emb && ~/peers/emb/bin/pip install torch==2.13.0 "transformers>=5.0"
"""

from __future__ import annotations

import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria
from worker import arguments, quiet_stdout, serve


class _Clock(StoppingCriteria):
    """Notes when each token was there, and never stops."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.times_s.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Transformers:
    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._random = torch.Generator().manual_seed(0)

    def prefill(self, tokens: int) -> float:
        started_s = time.perf_counter()
        return tokens / (self._generate(1, tokens, 1)[0] - started_s)

    def decode(self, sequences: int, context: int, steps: int) -> float:
        times_s = self._generate(sequences, context, steps + 1)
        return sequences * steps / (times_s[-1] - times_s[0])

    def _generate(self, sequences: int, context: int, new_tokens: int) -> list[float]:
        ids = torch.randint(100, 40_000, (sequences, context), generator=self._random)
        clock = _Clock()
        config = GenerationConfig(
            max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
        self._model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=config, stopping_criteria=[clock]
        )
        return clock.times_s


if __name__ == "__main__":
    answers, told = quiet_stdout(), arguments()
    serve(Transformers(told.model, told.threads), answers)
