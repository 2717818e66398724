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
# Spark's words in signs do not take line breaks along, each of which is alone.
_SPARK = (
    *_DEEPSEEK3[:2],
    _DEEPSEEK3[2].replace(r"[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+", r"[\p{P}\p{S}]+|[\r\n]"),
)
# Digits in threes from the right, here of any script; then words of scripts that write no spaces.
_AFMOE = (
    r"(?<!\p{N})\p{N}{1,2}(?=(?:\p{N}{3})+(?!\p{N}))|\p{N}{1,3}",
    r"[一-\x{9FFF}㐀-\x{4DBF}\x{F900}-\x{FAFF}\x{3040}-ゟ゠-ヿ･-ﾟ⼀-\x{2FDF}\x{E00}-\x{E7F}\x{E80}-\x{EFF}"
    r"\x{1780}-\x{17FF}\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+",
    _DEEPSEEK3[2],
)
_LAGUNA = (r"[^\n]+|\n+", _QWEN2)
# Words that follow each other are one, with the spaces between them.
_EXAONE_MOE = (
    _CONTRACTION
    + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    + r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
# Chinese characters are words of their own.
_KIMI = r"\p{Han}+|" + _GPT4O.replace(r"\p{Lo}\p{M}]", r"\p{Lo}\p{M}&&[^\p{Han}]]").replace(
    r"[\r\n/]*", r"[\r\n]*"
)
_JAIS2 = _LLAMA3.replace(
    r"\s+(?!\S)|\s+",
    "".join(rf"\s{{{count}}}(?!\S)|" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")) + r"\s",
)
# Only numbers are cut, in threes from the right. Published as (?=(\d{3})+(?!\d)): as for Tiny Aya.
_SUPERBPE = (r"\p{N}+", r"(?<!\d)\d{1,2}(?=(?:\d{3})+(?!\d))|\d{3}")
_UFAKZEKA = _QWEN2.removeprefix(_CONTRACTION + "|")
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_FALCON = (r"[\p{P}$+<=>^~|`]+", _GPT2, r"[0-9]{3}")
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
# Digits in threes from the right, of runs that end a word. Published as \d{1,3}(?=(?:\d{3})*\b), which looks
# at all that is left of a run for each of its threes; this looks once.
_TINY_AYA = (r"(?<!\d)\d++\b", r"\A\d{1,2}(?=(?:\d{3})+\z)", _GPT4O)
_YOUTU = (
    r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|[ㄅ-ㄯ]+|[一-龥\x{3040}-ゟ゠-ヿ]+",
    _CASED % (_CONTRACTION + "?", _CONTRACTION + "?", ""),
)
_VIKING = (_BLOOM, r"\p{N}")
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """`splits` are applied one after the other, then GPT-2's own rule where `gpt2` is set."""

    splits: tuple[str, ...] = ()
    gpt2: bool = False
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
                "jais",
                "mellum",
                "trillion",
            ),
        ),
    ),
    (PreTokenizer(gpt2=True, nfc=True), ("modern-bert", "mpt", "olmo")),
    (
        PreTokenizer(gpt2=True, single_digits=True),
        ("smollm", "starcoder", "refact", "codeshell", "exaone", "mellum2", "minerva-7b"),
    ),
    (PreTokenizer(gpt2=True, single_digits=True, nfc=True), ("command-r",)),
    (
        PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
        (
            *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1"),
            *("jina-v5-nano", "lfm2", "midm-2.0", "pixtral"),
        ),
    ),
    (PreTokenizer((_LLAMA3,), ignore_merges=True), ("glm5",)),
    (PreTokenizer((_JAIS2,)), ("jais-2",)),
    (PreTokenizer((_LLAMA3,)), ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe")),
    (PreTokenizer((_QWEN2,), nfc=True), ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2")),
    (
        PreTokenizer((_QWEN2,)),
        (
            *("stablelm2", "hunyuan", "solar-open", "bailingmoe", "bailingmoe2"),
            *("grok-2", "llada-moe"),
        ),
    ),
    (PreTokenizer((_SEED,)), ("seed-coder",)),
    (PreTokenizer((_QWEN35,), nfc=True), ("qwen35",)),
    (PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True), ("tekken",)),
    (
        PreTokenizer((_GPT4O,)),
        ("gpt-4o", "llama4", "kanana2", "granite-embed-multi-97m", "minimax-m2", "talkie"),
    ),
    (PreTokenizer(_DEEPSEEK_CODER), ("deepseek-coder",)),
    (PreTokenizer(_DEEPSEEK_LLM), ("deepseek-llm",)),
    (PreTokenizer(_DEEPSEEK3), ("deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm")),
    (PreTokenizer(_SPARK + (r"\p{N}",)), ("spark2_5",)),
    (PreTokenizer(_AFMOE), ("afmoe",)),
    (PreTokenizer(_LAGUNA), ("laguna",)),
    (PreTokenizer((_EXAONE_MOE,)), ("exaone-moe",)),
    (PreTokenizer((_KIMI,)), ("kimi-k2",)),
    (PreTokenizer((_UFAKZEKA,)), ("ufakzeka",)),
    (PreTokenizer((_BLOOM,)), ("bloom", "gpt3-finnish", "poro-chat")),
    (PreTokenizer(_FALCON), ("falcon",)),
    (PreTokenizer(_SUPERBPE), ("superbpe",)),
    (PreTokenizer(_MINICPM5, ignore_merges=True), ("minicpm5",)),
    (PreTokenizer(_TINY_AYA), ("cohere2moe", "tiny_aya")),
    (PreTokenizer(_YOUTU), ("youtu",)),
    (PreTokenizer(_VIKING), ("viking",)),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: rule for rule, names in _RULES for name in names}
