"""`protocol.Engine` over vLLM's: its tokens become events by the rules of every other engine here.

vLLM's client lives on a thread with a loop of its own (`LoopThread`). Requests go there, and the events of
one of its turns, which are those of a step, go to each reader's loop with one wake-up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence as Items
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.exceptions import EngineDeadError

from llm_serving.backends.constraints import FormConstraint
from llm_serving.backends.vllm_backend.arguments import (
    check_request,
    form_arguments,
    sampling_arguments,
    token_logprobs,
)
from llm_serving.backends.vllm_backend.loop_thread import LoopThread
from llm_serving.backends.vllm_backend.step_stats import StepStats
from llm_serving.engine.admission import check_prompt, check_room
from llm_serving.engine.detokenizer import Detokenizer
from llm_serving.engine.protocol import EngineOptions, EngineStats
from llm_serving.engine.request import GenerateRequest, TokenEvent
from llm_serving.engine.sequence import Sequence
from llm_serving.engine.streams import AsyncTokenStream, Streams
from llm_serving.errors import EngineDead, RequestCancelled, ServingError


class VLLMEngine:
    """Owns `llm`, an `AsyncLLM` that was made on `thread`; `close` must be called to end its processes.

    form_end: the token that vLLM has answers of a form end with; None if it cannot bind any.
    """

    takes_constraints = False  # its sampler is in another process; forms are compiled there once more

    def __init__(
        self,
        llm: Any,
        thread: LoopThread,
        steps: StepStats,
        token_bytes: Items[bytes],
        options: EngineOptions,
        *,
        form_end: int | None,
    ) -> None:
        self.takes_forms = form_end is not None
        self._form_end = form_end
        config = llm.vllm_config
        self.vocab_size = int(config.model_config.get_vocab_size())
        self.max_context = int(config.model_config.max_model_len)
        self._device = str(config.device_config.device_type)
        self._num_blocks = int(config.cache_config.num_gpu_blocks or 0)
        self._max_running = options.max_concurrency
        self._max_requests = options.max_concurrency + options.max_queue
        # A model's vocabulary may be padded beyond its tokenizer's: such ids have no text.
        self._token_bytes = list(token_bytes) + [b""] * (self.vocab_size - len(token_bytes))
        self._llm = llm
        self._thread = thread
        self._steps = steps
        self._streams = Streams(self._abort)
        self._wake = threading.Condition()
        self._requests: dict[str, Sequence] = {}  # accepted and not ended
        self._draining = False
        self._closed = False
        self._death: BaseException | None = None
        # Of vLLM's loop only:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._outbox: list[TokenEvent] = []
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._num_generated_tokens = 0

    def stats(self) -> EngineStats:
        """Numbers of blocks are those of the last step, as far as vLLM tells."""
        num_requests = len(self._requests)
        used = round(self._num_blocks * self._steps.kv_usage) if num_requests else 0
        return EngineStats(
            device=self._device,
            num_running=min(num_requests, self._max_running),
            num_waiting=max(0, num_requests - self._max_running),
            num_blocks=self._num_blocks,
            num_free_blocks=self._num_blocks - used,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self._num_cached_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_preemptions=self._steps.num_preemptions,
            num_steps=self._steps.num_steps,
        )

    async def submit(self, request: GenerateRequest) -> AsyncTokenStream:
        """Admit a request; never suspends. See `protocol.Engine`."""
        check_request(request, takes_forms=self.takes_forms)
        check_prompt(request.prompt_ids, self.vocab_size, self.max_context)
        if request.constraint is not None and self._form_end is not None:
            request = replace(request, eos_ids=request.eos_ids | {self._form_end})
        detokenizer = Detokenizer(self._token_bytes, request.sampling.stop, request.sampling.thoughts)
        sequence = Sequence(request, detokenizer, self.max_context)
        return self._streams.open(request.request_id, lambda: self._accept(sequence))

    async def close(self, drain_s: float = 0.0) -> None:
        """Admit nothing more, wait for accepted requests, cancel the rest, end vLLM's processes."""
        with self._wake:
            self._draining = True
        if drain_s > 0:
            await asyncio.to_thread(self._wait_idle, drain_s)
        with self._wake:
            if self._closed:
                return
            self._closed = True
        await asyncio.to_thread(self._thread.run, self._end())
        self._streams.fail_all(RequestCancelled)
        await asyncio.to_thread(self._thread.stop)
        self._llm = None

    def _wait_idle(self, timeout_s: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: not self._requests, timeout_s)

    def _accept(self, sequence: Sequence) -> None:
        request_id = sequence.request.request_id
        with self._wake:
            if self._death is None and self._llm is not None and self._llm.errored:
                self._death = self._llm.dead_error  # it died while nobody listened
            check_room(
                request_id,
                self._requests,
                self._max_requests,
                draining=self._draining,
                death=self._death,
            )
            self._requests[request_id] = sequence
        self._thread.loop.call_soon_threadsafe(self._start, sequence)

    def _abort(self, request_id: str) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing runs there any more
            self._thread.loop.call_soon_threadsafe(self._cancel, request_id)

    # From here on: vLLM's loop only.

    def _start(self, sequence: Sequence) -> None:
        request_id = sequence.request.request_id
        task = self._thread.loop.create_task(self._run(sequence))
        self._tasks[request_id] = task

        def ended(_: asyncio.Task[None]) -> None:
            if self._tasks.get(request_id) is task:  # or the id has been used again
                del self._tasks[request_id]
            self._release(sequence)

        task.add_done_callback(ended)  # of one that is cancelled unstarted, too

    def _cancel(self, request_id: str) -> None:
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    async def _end(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._llm.shutdown()

    async def _run(self, sequence: Sequence) -> None:
        """One request, from vLLM's point of view; leaving its outputs aborts it there."""
        request = sequence.request
        try:
            ends = [i for i in request.eos_ids if i < self.vocab_size]
            params = SamplingParams(
                **sampling_arguments(request.sampling, sequence.max_tokens, ends),
                output_kind=RequestOutputKind.DELTA,
                structured_outputs=_structured_outputs(request),
            )
            prompt = {"type": "token", "prompt_token_ids": request.prompt_ids}
            outputs = self._llm.generate(prompt, params, request.request_id, priority=request.priority)
            async with aclosing(outputs):
                async for output in outputs:
                    self._take(sequence, output)
                    if sequence.is_finished and not output.finished:
                        break
            if not sequence.is_finished:
                raise RuntimeError("vLLM ended an answer before its end")
        except EngineDeadError as error:
            self._die(error)
        except Exception as error:
            text = " ".join(str(error).split())[:300] or type(error).__name__
            self._streams.fail(request.request_id, ServingError(f"vLLM could not answer: {text}"))

    def _take(self, sequence: Sequence, output: Any) -> None:
        """Advance by the tokens of one output, and send what became of it at the end of this turn."""
        completion = output.outputs[0]
        if not sequence.output_ids:
            self._begin(sequence, output)
        count = sequence.request.sampling.top_logprobs
        for index, token_id in enumerate(completion.token_ids):
            logprobs = None
            if count is not None:
                logprobs = token_logprobs(completion.logprobs[index], token_id, count)
            if not self._outbox:
                self._thread.loop.call_soon(self._flush)  # behind the other requests of this step
            self._outbox.append(sequence.advance(token_id, logprobs))
            self._num_generated_tokens += 1
            if sequence.is_finished:
                self._release(sequence)  # before anybody hears of the end: who does may ask again
                break

    def _begin(self, sequence: Sequence, output: Any) -> None:
        sequence.num_cached_tokens = output.num_cached_tokens or 0
        self._num_prompt_tokens += sequence.num_prompt_tokens
        self._num_cached_tokens += sequence.num_cached_tokens
        if output.metrics is not None:  # the same monotonic clock, read in another process
            sequence.timings.scheduled_s = output.metrics.scheduled_ts

    def _flush(self) -> None:
        events, self._outbox = self._outbox, []
        self._streams.emit(events)

    def _die(self, error: BaseException) -> None:
        with self._wake:
            self._death = error
        self._streams.fail_all(lambda: EngineDead(error))

    def _release(self, sequence: Sequence) -> None:
        """Give its place to others."""
        request_id = sequence.request.request_id
        with self._wake:
            if self._requests.get(request_id) is sequence:
                del self._requests[request_id]
            if not self._requests:
                self._wake.notify_all()


def _structured_outputs(request: GenerateRequest) -> StructuredOutputsParams | None:
    constraint = request.constraint
    if not isinstance(constraint, FormConstraint):
        return None
    return StructuredOutputsParams(**form_arguments(constraint.form))
