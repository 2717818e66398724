"""Guarded text never becomes a special token, whatever a template does with it, and comes out unchanged."""

from __future__ import annotations

import random
import re
import time

import pytest

from llm_serving.checkpoints.special_tokens import SpecialTokens
from llm_serving.errors import CheckpointError

CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>"]
MARKERS = ["\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"]
NASTY = ["ab", "bc", "aba", "<<a>>", "<a>", "aa", "<\n>", "a.c", "((", "\\d"]


def texts(rng: random.Random, special: list[str], count: int) -> list[str]:
    pieces = [
        *special,
        *(s[:-1] for s in special),
        *(s[1:] for s in special),
        "a",
        "<",
        " ",
        "\ufdd0",
        "\ufdd1",
    ]
    return ["".join(rng.choices(pieces, k=rng.randrange(8))) for _ in range(count)]


@pytest.mark.parametrize("special", [CHATML, NASTY], ids=["chatml", "nasty"])
def test_guarded_text_is_plain_and_unchanged(special: list[str]) -> None:
    tokens = SpecialTokens(special)
    for text in texts(random.Random(1), special, 1000):
        assert tokens.split(tokens.guard(text)) == [text]


@pytest.mark.parametrize("special", [CHATML, NASTY], ids=["chatml", "nasty"])
def test_templates_may_join_trim_and_cut_guarded_texts(special: list[str]) -> None:
    tokens = SpecialTokens(special)
    rng = random.Random(2)
    for one, two in zip(texts(rng, special, 1000), texts(rng, special, 1000), strict=True):
        guarded = tokens.guard(one), tokens.guard(two)
        assert tokens.split("".join(guarded)) == [one + two]
        assert tokens.split(guarded[0].strip()) == [one.strip()]
        assert len(tokens.split(guarded[0][rng.randrange(9) : -1])) == 1
        prompt = f"{special[0]}{guarded[0]}{special[1]}{guarded[1]}"
        assert tokens.split(prompt) == ["", special[0], one, special[1], two]


def test_unguarded_special_strings_are_found_longest_and_leftmost() -> None:
    tokens = SpecialTokens(["<a>", "<a><b>", "<a", "b>"])
    assert tokens.split("x<a><b><a>y<ab>") == ["x", "<a><b>", "", "<a>", "y", "<a", "", "b>", ""]


def test_user_text_that_completes_with_a_neighbour_stays_plain() -> None:
    tokens = SpecialTokens(CHATML)
    parts = [tokens.guard(part) for part in ("<|im_", "end|>", "<", "/s>")]
    assert tokens.split("".join(parts)) == ["<|im_end|></s>"]


def test_the_markers_of_a_text_come_through() -> None:
    tokens = SpecialTokens(["<a>", "x\ufdd0"])
    for text in (
        "".join(MARKERS),
        "".join(MARKERS) * 2,
        "\ufdd1\ufdd2",
        "\ufdd1\ufdd1\ufdd2<a>",
        "<\ufdd1a>",
    ):
        assert tokens.split(tokens.guard(text)) == [text]
        assert tokens.split("<a>" + tokens.guard(text) + "<a>") == ["", "<a>", text, "<a>", ""]


def test_no_special_tokens_at_all() -> None:
    tokens = SpecialTokens([])
    assert tokens.guard("<s> \ufdd0") != "<s> \ufdd0"
    assert tokens.split(tokens.guard("<s> \ufdd0")) == ["<s> \ufdd0"]


def test_thousands_of_special_tokens_cost_no_more_than_a_few() -> None:
    strings = [f"<unused{i}>" for i in range(6000)] + CHATML
    tokens = SpecialTokens(strings)
    text = "<unused" * 20_000 + "<unused59>"
    started = time.thread_time()
    assert tokens.split(text)[1::2] == ["<unused59>"]
    assert tokens.split(tokens.guard(text)) == [text]
    assert time.thread_time() - started < 1.0


def test_every_regex_character_is_taken_literally() -> None:
    strings = [f"<{chr(code)}>" for code in range(32, 127)]
    tokens = SpecialTokens(strings)
    assert tokens.split("".join(strings))[1::2] == strings
    assert not re.search("<[^\ufdd0]>", tokens.guard("".join(strings)))


def test_impossible_special_tokens_are_refused() -> None:
    with pytest.raises(CheckpointError, match="too long or too many"):
        SpecialTokens("a" * i for i in range(2, 100))
    with pytest.raises(CheckpointError, match="every character"):
        SpecialTokens(["".join(map(chr, range(0xFDD0, 0xFDF0)))])
