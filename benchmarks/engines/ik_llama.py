"""ik_llama.cpp through the bindings of its wheel, weights repacked at load (its fastest way on a CPU).

python3 -m venv ~/peers/ik && ~/peers/ik/bin/pip install ik-llama-cpp-python==0.1.5
"""

from __future__ import annotations

import random
import time

from ik_llama_cpp import _ctypes_api as api
from worker import arguments, quiet_stdout, serve

BATCH = 512


class IkLlama:
    def __init__(self, model: str, threads: int, max_sequences: int, max_context: int) -> None:
        api.llama_backend_init()
        model_params = api.llama_model_default_params()
        model_params.repack_tensors = True
        model_params.use_mmap = False
        self._model = api.llama_model_load_from_file(model.encode(), model_params)
        if not self._model:
            raise RuntimeError(f"cannot load {model}")
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._threads = threads
        self._batch = api.llama_batch_init(BATCH, 0, 1)
        self._random = random.Random(0)

    def prefill(self, tokens: int) -> float:
        context = self._context(tokens + 1, 1)
        try:
            self._feed(context, 0, tokens)
            api.llama_kv_cache_clear(context)
            started_s = time.perf_counter()
            self._feed(context, 0, tokens)
            return tokens / (time.perf_counter() - started_s)
        finally:
            api.llama_free(context)

    def decode(self, sequences: int, context: int, steps: int) -> float:
        # One cache for all sequences: its size is what attention pays for, so no larger than needed.
        cache = self._context(sequences * (context + steps + 1), sequences)
        try:
            for sequence in range(sequences):
                self._feed(cache, sequence, context)
            started_s = time.perf_counter()
            for position in range(context, context + steps):
                self._run(cache, [(self._token(), position, row, 1) for row in range(sequences)])
            return sequences * steps / (time.perf_counter() - started_s)
        finally:
            api.llama_free(cache)

    def _context(self, cells: int, sequences: int) -> int:
        params = api.llama_context_default_params()
        params.n_ctx = -(-cells // 256) * 256
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn = (
            sequences == 1
        )  # its kernel asserts when a block holds nothing of a row's sequence
        context = api.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"no context of {cells} cells")
        return int(context)

    def _feed(self, context: int, sequence: int, tokens: int) -> None:
        for start in range(0, tokens, BATCH):
            end = min(start + BATCH, tokens)
            self._run(
                context, [(self._token(), p, sequence, int(p == tokens - 1)) for p in range(start, end)]
            )

    def _token(self) -> int:
        return self._random.randrange(self._vocabulary)

    def _run(self, context: int, rows: list[tuple[int, int, int, int]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, logits
        status = api.llama_decode(context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        api.llama_get_logits_ith(context, len(rows) - 1)  # waits for the result


if __name__ == "__main__":
    answers, told = quiet_stdout(), arguments()
    serve(IkLlama(told.model, told.threads, told.max_sequences, told.max_context), answers)
