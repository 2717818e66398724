from __future__ import annotations

import codecs
import random
import time

import pytest

from llm_serving.engine.detokenizer import Detokenizer

BYTES = [bytes([i]) for i in range(256)]


def reference(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Character by character: the first to be complete ends the text, the longest of those."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


def replay(data: bytes, size: int, stops: tuple[str, ...]) -> tuple[list[str], bool]:
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    detokenizer = Detokenizer(chunks, stops)
    pieces = [detokenizer.push(index) for index in range(len(chunks))]
    return [*pieces, detokenizer.flush()], detokenizer.stopped


SAMPLES = [
    ("plain text, nothing to stop", ("STOP",)),
    ("one STOP here", ("STOP",)),
    ("SSTOSTOP", ("STOP",)),
    ("aaaaaaaab", ("aaab",)),
    ("a\n\nUser: b", ("\nUser:", "\n\n\n")),
    ("abcabcabd!", ("abcabd", "bcabcx")),
    ("x<|im_end|>y", ("<|im_end|>", "<|im_start|>")),
    ("été 😀 fin 😀", ("😀 f",)),
    ("half a stop at the end <|im_e", ("<|im_end|>",)),
    ("abc", ("c", "bc", "abc")),
    ("abXc", ("abXcd", "X")),
    ("no stops at all", ()),
    ("empty is no stop", ("",)),
    ("e\u0301 combining", ("\u0301",)),
]


@pytest.mark.parametrize(("text", "stops"), SAMPLES)
def test_every_chunking_gives_the_same_text(text: str, stops: tuple[str, ...]):
    data = text.encode()
    expected = reference(text, stops)
    for size in range(1, len(data) + 1):
        pieces, stopped = replay(data, size, stops)
        assert ("".join(pieces), stopped) == expected, size


def test_random_texts_and_stops_against_the_reference():
    rng = random.Random(7)
    for _ in range(400):
        text = "".join(rng.choices("ab\u00e9😀", k=rng.randrange(1, 24)))
        stops = tuple(
            "".join(rng.choices("ab\u00e9😀", k=rng.randrange(1, 6))) for _ in range(rng.randrange(0, 20))
        )
        pieces, stopped = replay(text.encode(), rng.randrange(1, 9), stops)
        assert ("".join(pieces), stopped) == reference(text, stops), (text, stops)


def test_what_was_shown_is_never_part_of_a_stop_string():
    rng = random.Random(8)
    stops = ("abab", "bb", "cab")
    for _ in range(200):
        text = "".join(rng.choices("abc", k=16))
        detokenizer = Detokenizer(BYTES, stops)
        shown = ""
        final, _ = reference(text, stops)
        for byte in text.encode():
            shown += detokenizer.push(byte)
            assert final.startswith(shown), "shown text is never taken back"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"ok \xe2\x82 broken",
        b"\xf0\x9f\x98",
        b"\xc3",
        b"\xed\xa0\x80 surrogate",
        b"\xf8\x88\x80\x80\x80",
        "😀é漢".encode(),
        bytes(range(256)),
    ],
)
def test_bytes_become_what_pythons_decoder_says(data: bytes):
    expected = codecs.decode(data, "utf-8", "replace")
    for size in range(1, min(len(data), 8) + 1):
        pieces, _ = replay(data, size, ())
        assert "".join(pieces) == expected


def test_never_half_a_character():
    detokenizer = Detokenizer(BYTES)
    assert [detokenizer.push(byte) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    assert detokenizer.flush() == ""


def test_an_unfinished_character_is_replaced_at_the_end_only():
    detokenizer = Detokenizer(BYTES)
    assert detokenizer.push(0xF0) == ""
    assert detokenizer.flush() == "\ufffd"


def test_holds_back_no_more_than_it_must():
    detokenizer = Detokenizer([b"hello ST", b"IR", b" ", b"ST"], ("STOP",))
    assert [detokenizer.push(index) for index in range(4)] == ["hello ", "STIR", " ", ""]
    assert detokenizer.flush() == "ST"


def test_nothing_comes_after_a_stop():
    detokenizer = Detokenizer([b"a.b", b"more"], (".",))
    assert detokenizer.push(0) == "a"
    assert detokenizer.stopped
    assert detokenizer.push(1) == ""
    assert detokenizer.flush() == ""


def test_a_stop_string_of_the_replacement_character():
    detokenizer = Detokenizer([b"a\xf0"], ("\ufffd",))
    assert detokenizer.push(0) + detokenizer.flush() == "a"
    assert detokenizer.stopped


def test_linear_time_on_a_hostile_text():
    """100 000 characters that nearly match long stop strings; quadratic work would take minutes."""
    stops = tuple("a" * length + "b" for length in range(1000, 1016))
    started = time.thread_time()
    detokenizer = Detokenizer([b"a" * 10], stops)
    shown = sum(len(detokenizer.push(0)) for _ in range(10_000))
    assert shown + len(detokenizer.flush()) == 100_000
    assert time.thread_time() - started < 2.0


TEXT = " <t>a STOP </t\n\n</t>\n\n b STOP c"


@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize(
    ("text", "begin", "shown"),
    [
        (TEXT, "<t>", TEXT.partition("STOP c")[0]),
        (TEXT, "", TEXT.partition("STOP c")[0]),
        (TEXT, "<no>", " <t>a "),
        ("<t", "<t>", "<t"),
        ("<t>STOP", "<t>", "<t>STOP"),
        ("STOP", "<t>", ""),
        (" \n", "<t>", " \n"),
        ("<t></t>\n", "<t>", "<t></t>\n"),
        ("</t>STOP", "", "</t>"),
    ],
)
def test_stop_strings_do_not_count_in_thoughts(text: str, begin: str, shown: str, step: int) -> None:
    pieces = [text[i : i + step].encode() for i in range(0, len(text), step)]
    for stop in (("STOP",), ("STOP", "\n\n\n\n")):
        detokenizer = Detokenizer(pieces, stop, (begin, "</t>"))
        found = "".join(detokenizer.push(i) for i in range(len(pieces))) + detokenizer.flush()
        assert found == shown
        assert detokenizer.stopped == (shown != text)
    unstopped = Detokenizer(pieces, (), (begin, "</t>"))
    assert "".join(unstopped.push(i) for i in range(len(pieces))) + unstopped.flush() == text
