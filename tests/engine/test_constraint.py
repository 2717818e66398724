"""Constraints in the engine, without a library: a sequence says only what it may, and ends when it must."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from driving import Driver, limits, request

from llm_serving.backends.fake import EOS_ID, VOCAB_SIZE
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import FinishReason


class Script:
    """Allows one of some letters for each place; behind the last one the end, if it is not over by itself.

    Drafts are the places that have one letter, and `guesses` behind them.
    """

    def __init__(
        self, *either: str, has_end: bool = False, can_satisfy: bool = True, guesses: str = ""
    ) -> None:
        self._either = either
        self._has_end = has_end
        self._can_satisfy = can_satisfy
        self._guesses = guesses
        self.accepted: list[int] = []
        self.num_steps = 0

    @property
    def is_over(self) -> bool:
        return len(self.accepted) == len(self._either) and not self._has_end

    @property
    def is_satisfied(self) -> bool:
        return self._can_satisfy and len(self.accepted) == len(self._either)

    def forced(self) -> list[int]:
        letters = ""
        for may in self._either[len(self.accepted) :]:
            if len(may) > 1:
                break
            letters += may
        return [ord(letter) for letter in letters + self._guesses]

    def allowed(self, draft_ids: Sequence[int] = ()) -> np.ndarray:
        self.num_steps += 1
        return np.stack([self._bits(len(self.accepted) + i) for i in range(1 + len(draft_ids))])

    def _bits(self, at: int) -> np.ndarray:
        bits = np.zeros(VOCAB_SIZE, np.uint8)
        if at < len(self._either):
            bits[[ord(letter) for letter in self._either[at]]] = 1
        else:
            bits[EOS_ID] = 1
        return np.packbits(bits, bitorder="little")

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def constrained(request_id: str, script: Script, **sampling: object):
    a_request = request(request_id, "abcabcabcabc", **sampling)
    return type(a_request)(
        a_request.request_id, a_request.prompt_ids, a_request.sampling, a_request.eos_ids, constraint=script
    )


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.5}], ids=str
)
def test_only_what_is_allowed_is_said(sampling: dict) -> None:
    driver = Driver(random=True)
    scripts = [Script("xy", "ab", "01"), Script("q", has_end=True)]
    driver.core.submit(constrained("a", scripts[0], **sampling))
    driver.core.submit(request("free", "xyz", max_tokens=5))
    driver.core.submit(constrained("b", scripts[1], **sampling))
    driver.run()
    assert len(driver.text("a")) == 3
    assert all(said in may for said, may in zip(driver.text("a"), ("xy", "ab", "01"), strict=True))
    assert driver.text("b") == "q"
    assert {driver.of(name)[-1].finish_reason for name in "ab"} == {FinishReason.STOP}
    assert scripts[0].accepted == driver.tokens("a")
    assert scripts[1].accepted == driver.tokens("b")[:-1], "what ends the answer is no part of it"
    alone = Driver(random=True)
    alone.core.submit(request("free", "xyz", max_tokens=5))
    alone.run()
    assert alone.tokens("free") == driver.tokens("free")


@pytest.mark.parametrize("has_end", [False, True])
def test_what_cannot_be_satisfied_ends_as_cut_off(has_end: bool) -> None:
    driver = Driver(random=True)
    driver.core.submit(constrained("a", Script("x", has_end=has_end, can_satisfy=False)))
    driver.run()
    assert driver.of("a")[-1].finish_reason is FinishReason.LENGTH


def test_limits_and_stop_strings_still_hold() -> None:
    driver = Driver(random=True)
    driver.core.submit(constrained("short", Script(*"abcdef"), max_tokens=2))
    driver.core.submit(constrained("stopped", Script(*"abcdef"), stop=("cd",)))
    driver.run()
    assert driver.text("short") == "ab"
    assert driver.of("short")[-1].finish_reason is FinishReason.LENGTH
    assert driver.text("stopped") == "ab"
    assert driver.of("stopped")[-1].finish_reason is FinishReason.STOP


def test_probabilities_are_the_models_own() -> None:
    texts = []
    for script in (None, Script("x")):
        driver = Driver(random=True)
        asked = {"top_logprobs": 3, "max_tokens": 1}
        driver.core.submit(
            constrained("a", script, **asked) if script else request("a", "abcabcabcabc", **asked)
        )
        driver.run()
        texts.append(driver.of("a")[0].logprobs)
    free, bound = texts
    assert free is not None
    assert bound is not None
    assert bound.top == free.top
    assert bound.chosen < free.chosen


def test_a_preempted_sequence_goes_on_where_it_was() -> None:
    tight = Driver(limits(num_blocks=9), random=True)
    for name in "ab":
        tight.core.submit(constrained(name, Script(*["xy"] * 14), max_tokens=20))
    tight.run()
    assert tight.core.stats("x").num_preemptions > 0
    for name in "ab":
        assert len(tight.text(name)) == 14
        assert set(tight.text(name)) <= set("xy")


@pytest.mark.parametrize("guesses", ["", "zz"])
@pytest.mark.parametrize("num_others", [0, 4])
def test_what_is_forced_comes_in_one_step(guesses: str, num_others: int) -> None:
    """Also where many decode; a draft that does not hold costs nothing but its rows."""
    texts, steps, others = [], [], []
    for speculation in ("off", "auto"):
        driver = Driver(options=EngineOptions(speculation=speculation), random=True)
        script = Script("xy", *"forced", "01", *"ab", guesses=guesses)
        driver.core.submit(constrained("a", script, max_tokens=30, temperature=0.8, seed=2))
        for i in range(num_others):
            driver.core.submit(request(str(i), "q", max_tokens=20, ignore_eos=True))
        driver.run()
        texts.append(driver.text("a"))
        steps.append(script.num_steps)
        others.append([driver.tokens(str(i)) for i in range(num_others)])
        assert len(driver.tokens("a")) == 10
    assert texts[0] == texts[1]
    assert others[0] == others[1]
    assert steps == [10, 3]
