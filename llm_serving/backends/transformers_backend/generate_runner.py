"""A `ModelRunner` over `generate()`, one sequence at a time, for models whose state cannot be paged.

Those are recurrent models and hybrids: what they remember is not keys and values of single tokens.
`generate()` runs on a thread of its own and stops before every choice of a token: the logits go out, and the
token that the engine chose comes in. So sampling, stop strings and streams are the engine's here too.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from llm_serving.engine.protocol import RunnerLimits, Step


class _Abandoned(Exception):
    """Nobody wants the rest of this sequence."""


class _Run(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """One call of `generate()`, stopped between the logits and the choice of each token."""

    def __init__(self, model: Any, token_ids: torch.Tensor, max_new_tokens: int) -> None:
        self.num_tokens = token_ids.shape[1]  # whose logits are out, or under way
        self._logits: SimpleQueue[np.ndarray | BaseException] = SimpleQueue()
        self._chosen: SimpleQueue[int | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._generate, args=(model, token_ids, max_new_tokens), name="generate", daemon=True
        )
        self._thread.start()

    def next_logits(self) -> np.ndarray:
        """Wait for the model. Raises: what it raised."""
        logits = self._logits.get()
        if isinstance(logits, BaseException):
            raise logits
        return logits

    def choose(self, token_id: int) -> None:
        self.num_tokens += 1
        self._chosen.put(token_id)

    def abandon(self) -> None:
        self._chosen.put(None)
        self._thread.join()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._logits.put(scores[0].float().cpu().numpy())
        token_id = self._chosen.get()
        if token_id is None:
            raise _Abandoned
        only = torch.full_like(scores, -torch.inf)
        only[0, token_id] = 0.0
        return only

    def _generate(self, model: Any, token_ids: torch.Tensor, max_new_tokens: int) -> None:
        try:
            model.generate(
                token_ids,
                attention_mask=torch.ones_like(token_ids),
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0
                ),
                logits_processor=LogitsProcessorList([self]),
            )
            self._logits.put(RuntimeError("generate() ended by itself"))  # unread if all is well
        except _Abandoned:
            pass
        except BaseException as error:
            self._logits.put(error)


class GenerateRunner:
    """Holds one sequence. A step is its whole prompt, or the token that was chosen last."""

    def __init__(self, model: Any, vocab_size: int, max_context: int, device: torch.device) -> None:
        # One block is the whole of a sequence: nothing is ever shared, and nothing is cut into steps.
        self.limits = RunnerLimits(
            vocab_size=vocab_size,
            block_size=max_context,
            num_blocks=1,
            max_step_tokens=max_context,
            max_sequences=1,
            max_context=max_context,
            takes_drafts=False,
            has_all_logits=False,
        )
        # The engine decides what ends an answer and what is likely; nothing may do so a second time.
        model.generation_config = GenerationConfig(pad_token_id=0)
        self._model = model
        self._device = device
        self._run: _Run | None = None

    def run(self, step: Step) -> np.ndarray:
        """See `ModelRunner.run`: float32 logits [1, vocab_size]."""
        start = int(step.positions[0])
        if start == 0:
            self._abandon()
            token_ids = torch.from_numpy(step.token_ids.astype(np.int64))[None].to(self._device)
            self._run = _Run(self._model, token_ids, self.limits.max_context + 1 - len(step.token_ids))
        elif self._run is not None and len(step.token_ids) == 1 and start == self._run.num_tokens:
            self._run.choose(int(step.token_ids[0]))
        else:
            raise RuntimeError("a step does not go on where this model's only sequence ended")
        return self._run.next_logits()[None]

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._abandon()
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _abandon(self) -> None:
        if self._run is not None:
            self._run.abandon()
            self._run = None
