"""How vocabularies cut text into words, by the names that GGUF files call them by."""

from __future__ import annotations

import numpy as np
import pytest

from llm_serving.checkpoints.pretokenizers import PRE_TOKENIZERS, PreTokenizer


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("tiny_aya", ["in", " ", "1", "234", "567", " or", " ", "12", "x", " I'M"]),
        ("minicpm5", ["in", " ", "123", "456", "7", " or", " ", "12", "x", " I", "'M"]),
        ("youtu", ["in", " ", *"1234567", " or", " ", "1", "2", "x", " I'M"]),
        ("bloom", ["in", " 1234567", " or", " 12x", " I'M"]),
        ("falcon", ["in", " ", "123", "456", "7", " or", " 12", "x", " I", "'", "M"]),
        ("viking", ["in", " ", *"1234567", " or", " ", "1", "2", "x", " I'M"]),
        ("mellum2", ["in", " ", *"1234567", " or", " ", "1", "2", "x", " I", "'", "M"]),
        ("mellum", ["in", " 1234567", " or", " 12", "x", " I", "'", "M"]),
        ("afmoe", ["in", " ", "1", "234", "567", " or", " ", "12", "x", " I", "'M"]),
        ("laguna", ["in", " ", *"1234567", " or", " ", "1", "2", "x", " I", "'M"]),
        ("exaone-moe", ["in", " ", *"1234567", " or", " ", "1", "2", "x I", "'M"]),
        ("superbpe", ["in ", "1", "234", "567", " or ", "12", "x I'M"]),
        ("ufakzeka", ["in", " ", *"1234567", " or", " ", "1", "2", "x", " I", "'M"]),
    ],
)
def test_numbers_and_contractions(rule: str, words: list[str]) -> None:
    text = "in 1234567 or 12x I'M"
    cut = PRE_TOKENIZERS[rule].build().pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in cut] == words


@pytest.mark.parametrize(
    ("rule", "published"),
    [
        ("tiny_aya", (r"\d{1,3}(?=(?:\d{3})*\b)",)),
        ("afmoe", (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",)),
        ("superbpe", (r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    ],
)
def test_numbers_are_cut_from_the_right(rule: str, published: tuple[str, ...]) -> None:
    """As the published rules do, which look at the rest of a number again and again."""
    ours = PRE_TOKENIZERS[rule]
    rest = {"tiny_aya": 2, "afmoe": 1, "superbpe": 2}[rule]
    theirs = PreTokenizer((*published, *ours.splits[rest:])).build()
    rng = np.random.default_rng(6)
    texts = ["".join(rng.choice(list("1234567890０٣ ,x.\n_é中"), 14)) for _ in range(300)]
    assert all(ours.build().pre_tokenize_str(text) == theirs.pre_tokenize_str(text) for text in texts)
    assert len(ours.build().pre_tokenize_str("7" * 20000)) == 6667  # theirs would take very long


def test_words_of_kimi() -> None:
    text = "ab中文cd、か한 1234"
    cut = PRE_TOKENIZERS["kimi-k2"].build().pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in cut] == ["ab", "中文", "cd", "、か한", " ", "123", "4"]


def test_words_of_ling() -> None:
    """Published with other quantifiers (possessive ones), which find the same words."""
    ling = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    published = PreTokenizer((ling,)).build()
    rng = np.random.default_rng(5)
    signs = list("aBé中 \t\r\n'’sSdmtlvreLVRE12²!?.(\u0301ſ\u3000\u00a0")
    texts = ["".join(rng.choice(signs, 60)) for _ in range(300)]
    ours = PRE_TOKENIZERS["bailingmoe2"].build()
    assert all(ours.pre_tokenize_str(text) == published.pre_tokenize_str(text) for text in texts)


def test_words_of_youtu() -> None:
    text = "한국어！‘and 中文、か"
    cut = PRE_TOKENIZERS["youtu"].build().pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in cut] == ["한국어", "！‘", "and", " ", "中文", "、", "か"]


def test_words_of_deepseek_llm() -> None:
    """Its signs go from ":" to "~", letters of ASCII among them: words with others are cut again."""
    text = "Don't où\r\nГде 12 ქარ 你好，한  "
    words = PRE_TOKENIZERS["deepseek-llm"].build().pre_tokenize_str(text)
    plain = [text[begin:end] for _, (begin, end) in words]
    assert plain == [
        "Don",
        "'",
        "t",
        " o",
        "ù",
        "\r",
        "\n",
        "Где",
        " ",
        "1",
        "2",
        " ",
        "ქარ",
        " ",
        "你好",
        "，",
        "한",
        "  ",
    ]
