"""Small random encoders of every family, made and saved by `transformers`: the oracle of parity tests.

Importing costs nothing; calling needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tiny_encoders import write_modules
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ENGLISH = Path(__file__).parent / "parity" / "english.txt"
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MPNET_TOKENS = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
DEBERTA_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_POSITIONS = {"max_position_embeddings": 130}

# What each family's configuration needs, in its own words.
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_SMALL, **_POSITIONS},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, **_POSITIONS},
    "roberta": {**_SMALL, **_POSITIONS, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {**_SMALL, **_POSITIONS, "type_vocab_size": 1, "pad_token_id": 1},
    "mpnet": {**_SMALL, **_POSITIONS, "pad_token_id": 1},
    "deberta-v2": {
        **_SMALL,
        **_POSITIONS,
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
        "pooler_hidden_size": 64,
    },
    "nomic_bert": {**_SMALL, "max_position_embeddings": 128},
    "modernbert": {**_SMALL, "num_hidden_layers": 3, "max_position_embeddings": 128, "local_attention": 16},
    "qwen3": {**_SMALL, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128},
}


def save_encoder(
    directory: Path,
    family: str,
    *,
    labels: int = 0,
    answers: bool = False,
    pooling: str | None = "mean",
    corpus: Iterable[str] | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save model and tokenizer of a family in `CONFIGS`; returns `directory`.

    With `labels`, a cross-encoder; with `answers`, a language model that has tokens "yes" and "no"; else with
    sentence-transformers' files, unless `pooling` is None.
    """
    import torch
    import transformers

    if answers:
        corpus = [*ENGLISH.read_text("utf-8").splitlines(), *["yes", "no"] * 200]
    tokenizer = learn_tokenizer(family, corpus)
    tokenizer.save_pretrained(directory)
    settings: dict[str, Any] = {"vocab_size": len(tokenizer), **CONFIGS[family], **config}
    if family in ("modernbert", "qwen3"):
        settings |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        settings |= {"bos_token_id": tokenizer.cls_token_id, "cls_token_id": tokenizer.cls_token_id}
        settings |= {"sep_token_id": tokenizer.sep_token_id}
    if labels:
        settings["num_labels"] = labels
    made = transformers.AutoConfig.for_model(family, **settings)
    kind = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModel
    if answers:
        kind = transformers.AutoModelForCausalLM
    torch.manual_seed(seed)
    model = kind.from_config(made)
    _sharpen(model)
    model.save_pretrained(directory)
    if pooling is not None and not labels and not answers:
        write_modules(directory, 64, pooling)
    return directory


def _sharpen(model: Any) -> None:
    """Weights as initialised give means and near-zeros; these give every operation something to do."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 1.0 if "embed" in name else 1.5 / weight.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.1)
            else:
                weight.normal_(1.0, 0.2)


def learn_tokenizer(family: str, corpus: Iterable[str] | None = None) -> Any:
    """A tokenizer of the family's own class with a small vocabulary learned from `corpus`."""
    lines = list(corpus) if corpus is not None else ENGLISH.read_text("utf-8").splitlines()
    return _TOKENIZERS[family](lines)


def _learned(tokenizer: Tokenizer, trainer: Any, lines: list[str]) -> Tokenizer:
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _wordpiece(lines: list[str], special: list[str]) -> dict[str, int]:
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer()
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=1200, special_tokens=special, show_progress=False)
    learned = _learned(learner, trainer, lines).get_vocab()
    # The trainer numbers tokens differently each time.
    return {token: i for i, token in enumerate([*special, *sorted(learned.keys() - set(special))])}


def _byte_level(
    lines: list[str], special: list[str], words: str | None = None, *, nfc: bool = False
) -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words is not None:
        split = pre_tokenizers.Split(Regex(words), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        learner.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    if nfc:
        learner.normalizer = normalizers.NFC()
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    return _learned(learner, trainer, lines)


def _bert(lines: list[str]) -> Any:
    import transformers

    return transformers.BertTokenizer(vocab=_wordpiece(lines, BERT_TOKENS))


def _mpnet(lines: list[str]) -> Any:
    import transformers

    return transformers.MPNetTokenizer(vocab=_wordpiece(lines, MPNET_TOKENS))


def _roberta(lines: list[str]) -> Any:
    import json

    import transformers

    model = json.loads(_byte_level(lines, ROBERTA_TOKENS).to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return transformers.RobertaTokenizer(vocab=model["vocab"], merges=merges)


def _unigram(lines: list[str], special: list[str], unknown: str) -> list[tuple[str, float]]:
    import json

    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=1000, special_tokens=special, unk_token=unknown, show_progress=False
    )
    pieces = json.loads(_learned(learner, trainer, lines).to_str())["model"]["vocab"]
    return [(str(piece), float(score)) for piece, score in pieces]


def _xlm_roberta(lines: list[str]) -> Any:
    import transformers

    pieces = _unigram(lines, ROBERTA_TOKENS[:4], "<unk>")
    return transformers.XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])


def _deberta(lines: list[str]) -> Any:
    import transformers

    pieces = _unigram(lines, DEBERTA_TOKENS, "[UNK]")
    return transformers.DebertaV2Tokenizer(vocab=[*pieces, ("[MASK]", 0.0)], unk_id=3)


def _modernbert(lines: list[str]) -> Any:
    import transformers

    learned = _byte_level(lines, BERT_TOKENS, nfc=True)
    cls, sep = ((token, learned.token_to_id(token)) for token in ("[CLS]", "[SEP]"))
    learned.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[cls, sep]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=learned, **dict(zip(names, BERT_TOKENS, strict=True))
    )


def _qwen3(lines: list[str]) -> Any:
    import transformers

    learned = _byte_level(lines, QWEN_TOKENS, _QWEN_WORDS, nfc=True)
    end = QWEN_TOKENS[0]
    template = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B:1 {end}:1", special_tokens=[(end, learned.token_to_id(end))]
    )
    learned.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=learned, eos_token=end, pad_token=end, additional_special_tokens=QWEN_TOKENS[1:]
    )


_TOKENIZERS: dict[str, Callable[[list[str]], Any]] = {
    "bert": _bert,
    "distilbert": _bert,
    "nomic_bert": _bert,
    "mpnet": _mpnet,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
    "deberta-v2": _deberta,
    "modernbert": _modernbert,
    "qwen3": _qwen3,
}
