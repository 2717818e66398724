r"""How byte-level vocabularies cut text into words before merging, by the name in `tokenizer.ggml.pre`.

The rules are part of each model: its merges were learned on these cuts. Sources: the models' published
`tokenizer.json` files; the names are those llama.cpp's converter writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST
_QWEN35 = (
    _CONTRACTION
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Seed's words in signs do not take line breaks along.
_SEED = _QWEN2.replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|"
    r"\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CASED % ("", "", "")
_GPT4O = _CASED % (_CONTRACTION + "?", _CONTRACTION + "?", "{1,3}")
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Letters that have two cases, but those of alphabets that came to have them later, and of mathematics.
_CASELESS = (
    r"\x{560}-\x{588}\x{10C7}-\x{10FF}\x{1C80}-\x{1C8F}\x{2D00}-\x{2D2D}\x{A790}-\x{AB6F}\x{10570}-\x{105BC}"
    r"\x{10D50}-\x{10D85}\x{16E40}-\x{16EDF}\x{1D400}-\x{1D7CB}\x{1DF00}-\x{1DFFF}"
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[\p{{Lu}}\p{{Ll}}\p{{Lt}}&&[^{_CASELESS}]]+",
    r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-퟿]+",
    r"\p{N}",
)
# Numbers are cut first, so the second rule finds none longer.
_MINICPM5 = (r"\p{N}{1,3}", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+"))
# Digits in threes from the right.
_TINY_AYA = (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)
_YOUTU = (
    r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|[ㄅ-ㄯ]+|[一-龥\x{3040}-ゟ゠-ヿ]+",
    _CASED % (_CONTRACTION + "?", _CONTRACTION + "?", ""),
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_VIKING = (_BLOOM, r"\p{N}")
_FALCON = r"[\p{P}$+<=>^~|`]+"
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """`splits` are applied one after the other, then GPT-2's own rule where `gpt2` is set, then `behind`."""

    splits: tuple[str, ...] = ()
    gpt2: bool = False
    behind: str = ""
    single_digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False  # a word that is a token stays whole, whatever the merges say
    add_bos: bool = False  # when the metadata does not say

    def build(self) -> pre_tokenizers.PreTokenizer:
        steps: list[pre_tokenizers.PreTokenizer] = []
        if self.single_digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps.extend(pre_tokenizers.Split(Regex(split), "isolated") for split in self.splits)
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2))
        if self.behind:
            steps.append(pre_tokenizers.Split(Regex(self.behind), "isolated"))
        return pre_tokenizers.Sequence(steps)

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None


_RULES: tuple[tuple[PreTokenizer, tuple[str, ...]], ...] = (
    (
        PreTokenizer(gpt2=True),
        (
            *(
                "default",
                "gpt-2",
                "phi-2",
                "roberta-bpe",
                "exaone4",
                "a.x-4.0",
                "gigachat",
                "granite-docling",
            ),
            *(
                "jina-v1-en",
                "jina-v2-code",
                "jina-de",
                "jina-es",
                "jina-v2-de",
                "jina-v2-es",
                "mellum",
                "trillion",
            ),
        ),
    ),
    (PreTokenizer(gpt2=True, nfc=True), ("modern-bert", "mpt", "olmo")),
    (PreTokenizer((_FALCON,), gpt2=True, behind="[0-9][0-9][0-9]"), ("falcon",)),
    (
        PreTokenizer(gpt2=True, single_digits=True),
        ("smollm", "starcoder", "refact", "codeshell", "exaone", "mellum2", "minerva-7b"),
    ),
    (PreTokenizer(gpt2=True, single_digits=True, nfc=True), ("command-r",)),
    (
        PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2", "midm-2.0", "pixtral"),
    ),
    (PreTokenizer((_LLAMA3,)), ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe")),
    (PreTokenizer((_QWEN2,), nfc=True), ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2")),
    (PreTokenizer((_QWEN2,)), ("stablelm2", "hunyuan", "solar-open", "bailingmoe2")),
    (PreTokenizer((_SEED,)), ("seed-coder",)),
    (PreTokenizer((_QWEN35,), nfc=True), ("qwen35",)),
    (PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True), ("tekken",)),
    (PreTokenizer((_GPT4O,)), ("gpt-4o", "llama4", "kanana2", "granite-embed-multi-97m")),
    (PreTokenizer(_DEEPSEEK_CODER), ("deepseek-coder",)),
    (PreTokenizer(_DEEPSEEK_LLM), ("deepseek-llm",)),
    (PreTokenizer(_DEEPSEEK3), ("deepseek-v3", "hunyuan-dense", "joyai-llm")),
    (PreTokenizer(_MINICPM5, ignore_merges=True), ("minicpm5",)),
    (PreTokenizer(_TINY_AYA), ("tiny_aya",)),
    (PreTokenizer(_YOUTU), ("youtu",)),
    (PreTokenizer((_BLOOM,)), ("bloom", "gpt3-finnish")),
    (PreTokenizer(_VIKING), ("viking",)),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: rule for rule, names in _RULES for name in names}
