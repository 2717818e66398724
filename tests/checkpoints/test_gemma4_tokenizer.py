"""Vocabularies of Gemma 4's GGUF files: SentencePiece's tokens with merges, marks in pairs."""

from __future__ import annotations

from pathlib import Path

from tokenizer_texts import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, write_vocabulary

from llm_serving.checkpoints import Tokenizer, build_tokenizer, read_gguf


def gemma(path: Path, tokens: list[str], types: list[int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Of a vocabulary that begins with padding, the end, the beginning and the unknown token."""
    write_vocabulary(
        path,
        tokens,
        model="gemma4",
        architecture="gemma4",
        types=types,
        merges=merges,
        flags={"add_space_prefix": False, "add_bos_token": True},
        bos=2,
        eos=1,
        unknown=3,
    )
    return build_tokenizer(read_gguf(path))


def test_merges_reach_over_words_and_marks_are_not_written_by_users(tmp_path: Path) -> None:
    tokens = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<|turn>",
        "<turn|>",
        "<|tool_call>",
        "<tool_call|>",
        '<|"|>',
    ]
    types = [CONTROL] * 6 + [USER_DEFINED] * 3
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [BYTE] * 256
    merges = [("\u2581", "a"), ("a", "b"), ("\n", "\n"), ("\u2581a", "b"), ("ab", "\u2581a")]
    tokens += ["\u2581", "a", "b", "\n", *("".join(merge) for merge in merges)]
    types += [NORMAL] * (len(tokens) - len(types))
    ours = gemma(tmp_path / "m.gguf", tokens, types, merges)
    ids = {token: i for i, token in enumerate(tokens)}
    assert ours.encode("ab a b") == [ids["ab\u2581a"], ids["\u2581"], ids["b"]]
    assert ours.encode("\n\n\n") == [ids["\n\n"], ids["\n"]]
    assert ours.encode("\u00e9") == [ids["<0xC3>"], ids["<0xA9>"]]
    assert ours.eos_ids == {1, 5}
    assert ours.encode_prompt("<|turn>a<|tool_call>") == [2, 4, ids["a"], 6]
    assert not {4, 5, 6, 7, 8} & set(ours.encode('<|turn>a<turn|><|tool_call>a<tool_call|><|"|>'))
    assert ours.decode([6, ids["a"], 8, 7]) == '<|tool_call>a<|"|><tool_call|>'


def test_no_merge_makes_what_is_no_users_text(tmp_path: Path) -> None:
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    merges = [("a", "b"), ("u", "n"), ("un", "k"), ("unk", ">"), ("<", "unk>")]
    letters = [*"<abunk>", "ab", "un", "unk", "unk>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    types = [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256 + [NORMAL] * len(letters)
    ours = gemma(tmp_path / "m.gguf", tokens, types, merges)
    assert ours.encode("ab") == [tokens.index("ab")]
    assert ours.encode("<unk>") == [tokens.index("<"), tokens.index("unk>")]


def test_sarvam_calls_such_a_vocabulary_gpt2(tmp_path: Path) -> None:
    """And its bytes are tokens as any other."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b"]
    merges = [("\u2581", "a"), ("\u2581a", "b"), ("b", "\u2581ab")]
    tokens += ["".join(merge) for merge in merges]
    types = [UNKNOWN, CONTROL, CONTROL] + [NORMAL] * (len(tokens) - 3)
    path = write_vocabulary(
        tmp_path / "m.gguf",
        tokens,
        model="gpt2",
        pre="sarvam-moe",
        types=types,
        merges=merges,
        bos=1,
        eos=2,
        unknown=0,
    )
    ours = build_tokenizer(read_gguf(path))
    ids = {token: i for i, token in enumerate(tokens)}
    assert ours.encode("b ab a") == [ids["b\u2581ab"], ids["\u2581a"]]
    assert ours.encode("\u00e9") == [ids["<0xC3>"], ids["<0xA9>"]]
    assert ours.decode(ours.encode("b \u00e9a")) == "b \u00e9a"
    assert ours.encode_prompt("a") == [ids["a"]]
