"""Rows in place of embeddings: in any cut, with a cache that tells pictures apart, again after giving way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from driving import Driver, limits, picture, request

from llm_serving.backends.fake import GIVEN_WIDTH
from llm_serving.engine.blocks import extend_chain
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import GenerateRequest, GivenRows
from llm_serving.errors import InvalidRequest

PROMPT = [7] * 30
DIGEST = bytes(16)


def seeing(name: str, *given: GivenRows, prompt: list[int] = PROMPT) -> GenerateRequest:
    return replace(request(name, prompt, max_tokens=6, ignore_eos=True), given=given)


def answer(its_request: GenerateRequest, max_step_tokens: int = 64) -> list[int]:
    driver = Driver(limits(max_step_tokens=max_step_tokens), random=True)
    driver.core.submit(its_request)
    driver.run()
    return driver.tokens(its_request.request_id)


def test_a_picture_changes_the_answer_and_its_place_does() -> None:
    answers = {
        tuple(answer(seeing("r", *given)))
        for given in ([], [picture(3, 1, 9)], [picture(3, 2, 9)], [picture(4, 1, 9)], [picture(3, 1, 8)])
    }
    assert len(answers) == 5


@pytest.mark.parametrize("max_step_tokens", [1, 2, 3, 7, 11])
def test_any_cut_into_steps_is_the_same(max_step_tokens: int) -> None:
    whole = seeing("r", picture(2, 1, 5), picture(7, 2, 10), picture(29, 3, 1))
    assert answer(whole, max_step_tokens) == answer(whole)


def test_the_same_picture_is_found_again_and_another_is_not() -> None:
    driver = Driver(random=True)
    for name, number in (("first", 1), ("same", 1), ("other", 2)):
        driver.core.submit(seeing(name, picture(6, number, 20)))
        driver.run()
        assert driver.tokens(name) == answer(seeing(name, picture(6, number, 20)))
    cached = [driver.of(name)[-1].num_cached_tokens for name in ("first", "same", "other")]
    assert cached == [0, 28, 4], "blocks of four; the picture begins in the second"


def test_pictures_side_by_side_share_what_is_before_the_second() -> None:
    driver = Driver(random=True)
    for name, numbers in (("a", (1, 2)), ("b", (1, 3))):
        driver.core.submit(seeing(name, picture(4, numbers[0], 8), picture(12, numbers[1], 8)))
        driver.run()
    assert driver.of("b")[-1].num_cached_tokens == 12


def test_who_gives_way_sees_its_picture_again() -> None:
    driver = Driver(limits(num_blocks=18), EngineOptions(max_concurrency=3), random=True)
    asked = [
        replace(seeing(f"r{i}", picture(i, i, 25)), sampling=replace(seeing("").sampling, max_tokens=20))
        for i in range(3)
    ]
    for each in asked:
        driver.core.submit(each)
    driver.run()
    assert driver.core.stats("fake").num_preemptions > 0
    for each in asked:
        assert driver.tokens(each.request_id) == answer(each)


def test_a_chain_tells_where_rows_begin() -> None:
    def chain(*given: GivenRows) -> list[bytes]:
        digests: list[bytes] = []
        extend_chain(digests, PROMPT, 4, 7, given)
        return digests

    plain, seen = chain(), chain(picture(5, 1, 6))
    assert [a == b for a, b in zip(plain, seen, strict=True)] == [True] + [False] * 6
    assert chain(picture(5, 1, 6)) == seen
    shifted = GivenRows(6, picture(5, 1, 6).rows, picture(5, 1, 6).digest)
    assert chain(shifted)[1] != seen[1]


@pytest.mark.parametrize(
    "given",
    [
        [GivenRows(0, np.zeros((31, GIVEN_WIDTH), np.float32), DIGEST)],
        [GivenRows(-1, np.zeros((2, GIVEN_WIDTH), np.float32), DIGEST)],
        [GivenRows(0, np.zeros((2, GIVEN_WIDTH + 1), np.float32), DIGEST)],
        [GivenRows(0, np.zeros((2, GIVEN_WIDTH)), DIGEST)],
        [GivenRows(0, np.zeros((0, GIVEN_WIDTH), np.float32), DIGEST)],
        [picture(4, 1, 4), picture(7, 1, 4)],
        [picture(7, 1, 4), picture(2, 1, 4)],
    ],
)
def test_rows_that_do_not_fit_are_refused(given: list[GivenRows]) -> None:
    with pytest.raises(InvalidRequest, match="do not fit"):
        Driver().core.submit(seeing("r", *given))


def test_a_runner_that_takes_none_is_given_none() -> None:
    with pytest.raises(InvalidRequest, match="takes no images"):
        Driver(replace(limits(), given_width=0)).core.submit(seeing("r", picture(0, 1, 4)))
