from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from driving import TOKENIZER, Driver, alone, limits, request
from patience import PATIENCE_S, wait_until

from llm_serving.backends.fake import EOS_ID, VOCAB_SIZE
from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import EngineOptions, RunnerLimits, Step
from llm_serving.engine.request import FinishReason, TokenEvent
from llm_serving.engine.sampler import NumpySampler
from llm_serving.errors import ContextLengthExceeded, EngineDead, InvalidRequest, Overloaded


def answer(driver: Driver, **params: object) -> tuple[str, FinishReason | None, int]:
    driver.core.submit(request("r", "prompt", **params))
    driver.run()
    last = driver.of("r")[-1]
    assert [event.finish_reason for event in driver.of("r")[:-1]] == [None] * (len(driver.of("r")) - 1)
    return driver.text("r"), last.finish_reason, last.num_completion_tokens


def test_end_of_sequence_is_counted_and_not_shown():
    driver = Driver(reply="Yes.")
    assert answer(driver, max_tokens=50) == ("Yes.", FinishReason.STOP, 5)
    assert driver.tokens("r")[-1] == EOS_ID


def test_max_tokens():
    assert answer(Driver(reply="Yes, indeed."), max_tokens=3) == ("Yes", FinishReason.LENGTH, 3)
    assert answer(Driver(reply="Yes"), max_tokens=4) == ("Yes", FinishReason.STOP, 4)


def test_stop_string():
    assert answer(Driver(reply="One. Two."), max_tokens=50, stop=(". T",)) == ("One", FinishReason.STOP, 6)
    assert answer(Driver(reply="One. Two."), max_tokens=6, stop=(". T",))[1] is FinishReason.STOP


def test_text_held_back_comes_out_at_the_end():
    assert answer(Driver(reply="One. "), max_tokens=50, stop=(". T",))[0] == "One. "
    assert answer(Driver(reply="One. Four"), max_tokens=5, stop=(". T",))[0] == "One. "
    assert answer(Driver(reply="a😀"), max_tokens=3)[0] == "a\ufffd"


def test_ignore_eos_goes_on_to_the_limit():
    assert answer(Driver(always_eos=True), max_tokens=7, ignore_eos=True) == ("", FinishReason.LENGTH, 7)
    assert answer(Driver(always_eos=True), max_tokens=7) == ("", FinishReason.STOP, 1)


@pytest.mark.parametrize("num_blocks", [64, 8])
def test_the_end_of_the_context(num_blocks: int):
    driver = Driver(limits(max_context=32, block_size=4, num_blocks=num_blocks), random=True)
    driver.core.submit(request("r", list(range(20)), max_tokens=1000, ignore_eos=True))
    driver.run()
    last = driver.of("r")[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.num_prompt_tokens + last.num_completion_tokens == 32


def test_a_prompt_that_can_never_fit_is_refused():
    driver = Driver(limits(max_context=32))
    with pytest.raises(ContextLengthExceeded) as caught:
        driver.core.submit(request("r", [1] * 32))
    assert (caught.value.num_prompt, caught.value.limit) == (32, 32)
    driver.core.submit(request("fits", [1] * 31))
    small_pool = Driver(limits(max_context=1000, num_blocks=4, block_size=4))
    assert small_pool.core.max_context == 16
    with pytest.raises(ContextLengthExceeded):
        small_pool.core.submit(request("r", [1] * 16))
    shortened = Driver(options=EngineOptions(context_length=10))
    with pytest.raises(ContextLengthExceeded):
        shortened.core.submit(request("r", [1] * 10))


@pytest.mark.parametrize("prompt", [[], [-1], [VOCAB_SIZE], [0, 2**40]])
def test_prompts_that_would_break_the_runner_are_refused(prompt: list[int]):
    with pytest.raises(InvalidRequest) as caught:
        Driver().core.submit(request("r", prompt))
    assert caught.value.param == "prompt"


def test_an_id_in_use_is_refused_and_free_again_afterwards():
    driver = Driver(reply="x")
    driver.core.submit(request("r", "a"))
    with pytest.raises(InvalidRequest):
        driver.core.submit(request("r", "b"))
    driver.run()
    driver.core.submit(request("r", "b"))
    driver.run()
    assert driver.text("r") == "xx"


def test_the_queue_is_bounded_beside_those_that_can_run():
    driver = Driver(options=EngineOptions(max_concurrency=2, max_queue=3), reply="four")
    for i in range(5):
        driver.core.submit(request(f"r{i}", "prompt"))
    for _ in range(3):
        with pytest.raises(Overloaded):
            driver.core.submit(request("more", "prompt"))
        driver.step()
    driver.run()
    assert [driver.text(f"r{i}") for i in range(5)] == ["four"] * 5
    driver.core.submit(request("more", "prompt"))


@pytest.mark.parametrize("num_steps", [0, 1, 2, 6])
def test_abort_ends_a_request_once_in_any_state(num_steps: int):
    driver = Driver(limits(max_step_tokens=6), random=True)
    for name in ("a", "b"):
        driver.core.submit(request(name, list(range(14)), max_tokens=40, ignore_eos=True))
    for _ in range(num_steps):
        driver.step()
    driver.core.abort("a")
    driver.core.abort("a")
    driver.core.abort("unknown")
    driver.step()
    driver.core.abort("a")
    driver.step()
    assert [event.finish_reason for event in driver.of("a")].count(FinishReason.ABORT) == 1
    assert driver.of("a")[-1].finish_reason is FinishReason.ABORT
    assert driver.of("a")[-1].text == ""
    driver.run()
    assert driver.tokens("b") == alone(request("b", list(range(14)), max_tokens=40, ignore_eos=True))
    assert driver.core.stats("x").num_free_blocks == 64


def test_timings_and_counts():
    driver = Driver(reply="abc")
    before = time.monotonic()
    driver.core.submit(request("r", "prompt"))
    driver.run()
    timings = driver.of("r")[-1].timings
    times = [timings.arrived_s, timings.scheduled_s, timings.first_token_s, timings.finished_s]
    assert before <= times[0]
    assert times == sorted(times)
    assert [event.num_completion_tokens for event in driver.of("r")] == [1, 2, 3, 4]
    stats = driver.core.stats("fake")
    assert (stats.num_prompt_tokens, stats.num_generated_tokens, stats.num_steps) == (6, 4, 4)
    assert (stats.num_running, stats.num_waiting, stats.device) == (0, 0, "fake")
    assert stats.step_seconds > 0


class PaddedRunner:
    """A vocabulary larger than the tokenizer's; always says the last id."""

    limits = RunnerLimits(1000, 4, 16, 32, 4, 64)

    def run(self, step: Step) -> np.ndarray:
        logits = np.zeros((len(step.logit_rows), 1000), np.float32)
        logits[:, -1] = 1.0
        return logits

    def close(self) -> None:
        pass


def test_ids_without_text_are_silent():
    events: list[TokenEvent] = []
    core = EngineCore(
        PaddedRunner(), NumpySampler(), TOKENIZER.token_bytes, EngineOptions(), events.extend, print
    )
    core.submit(request("r", "hi", max_tokens=2))
    events += core.step() + core.step()
    assert [event.token_ids for event in events] == [(999,), (999,)]
    assert [event.text for event in events] == ["", ""]


def test_the_thread_sleeps_when_idle_and_ends_on_stop():
    driver = Driver(reply="hello")
    thread = threading.Thread(target=driver.core.run)
    thread.start()
    driver.core.submit(request("a", "x", max_tokens=50))
    assert driver.core.wait_idle(PATIENCE_S)
    wait_until(lambda: driver.text("a") == "hello")
    steps = driver.core.stats("x").num_steps
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    cpu = time.clock_gettime(clock)
    time.sleep(0.05)
    assert time.clock_gettime(clock) - cpu < 0.03
    assert driver.core.stats("x").num_steps == steps
    driver.core.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    with pytest.raises(Overloaded, match="takes no new requests"):
        driver.core.submit(request("b", "x"))


def test_what_can_be_prepared_is_prepared_while_nothing_is_to_be_done():
    """Before the first request already; and a request does not wait until there is no more."""
    answered = threading.Event()
    calls: list[bool] = []

    def prepare() -> bool:
        calls.append(answered.is_set())
        time.sleep(0.001)
        return not calls[-1]

    events: list[TokenEvent] = []
    core = EngineCore(
        PaddedRunner(),
        NumpySampler(),
        TOKENIZER.token_bytes,
        EngineOptions(),
        events.extend,
        print,
        prepare=prepare,
    )
    thread = threading.Thread(target=core.run, daemon=True)
    thread.start()
    wait_until(lambda: len(calls) > 3)
    core.submit(request("r", "hi", max_tokens=2))
    assert core.wait_idle(PATIENCE_S), "the request was answered though there was always more to prepare"
    wait_until(lambda: len(events) == 2)  # a request is over before its last event is out
    answered.set()
    wait_until(lambda: calls[-1])
    num_calls = len(calls)
    time.sleep(0.02)
    assert len(calls) == num_calls, "there was no more"
    core.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_failing_step_is_the_death_of_the_engine():
    driver = Driver(fail_at_step=2)
    driver.core.submit(request("a", "x", max_tokens=50))
    driver.core.run()
    assert len(driver.deaths) == 1
    with pytest.raises(EngineDead) as caught:
        driver.core.submit(request("b", "x"))
    assert caught.value.cause is driver.deaths[0]
    assert driver.core.wait_idle(0.0)


def test_wait_idle_gives_up():
    driver = Driver()
    driver.core.submit(request("a", "x"))
    assert not driver.core.wait_idle(0.01)


def test_every_token_of_a_step_comes_in_one_list():
    driver = Driver(reply="abcd")
    names = [f"r{i}" for i in range(5)]
    for i, name in enumerate(names):
        driver.core.submit(request(name, [i, 1, 2], max_tokens=50))
    for letter in "abcd":
        assert [(event.request_id, event.text) for event in driver.step()] == [
            (name, letter) for name in names
        ]
    assert [event.finish_reason for event in driver.step()] == [FinishReason.STOP] * 5
    assert driver.step() == []
