"""A Hugging Face directory's tokenizer: `tokenizer.json`, or BERT's `vocab.txt`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.encoder_vocabulary import EncoderVocabulary
from llm_serving.checkpoints.json_files import read_object
from llm_serving.checkpoints.sentence_transformers import SentenceTransformers
from llm_serving.checkpoints.tokenizer_library import (
    decode_plain,
    encode_plain,
    frame_of,
    no_panic,
    shut_out,
    try_out,
)
from llm_serving.errors import CheckpointError

MAX_TOKENIZER_BYTES = 1 << 28
MAX_SANE_TOKENS = 1 << 24  # where there is no limit, transformers writes 10^30

_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def read_tokenizer_files(checkpoint: Checkpoint) -> EncoderVocabulary:
    """Raises: CheckpointError, naming the file and what is wrong with it."""
    folder = Path(checkpoint.path)
    config_path = folder / "tokenizer_config.json"
    config = read_object(config_path) if config_path.is_file() else {}
    for name, read in (("tokenizer.json", _read_json), ("vocab.txt", _read_vocab)):
        path = folder / name
        if not path.is_file():
            continue
        with no_panic(f"{path}: this is no tokenizer"):
            if path.stat().st_size > MAX_TOKENIZER_BYTES:
                raise CheckpointError(f"{path}: has over {MAX_TOKENIZER_BYTES} bytes, which is no tokenizer.")
            backend = read(path, config, checkpoint)
            backend.no_truncation()
            backend.no_padding()
            _apply_bert_options(config_path, config, backend)
            return _vocabulary(str(path), backend, config, checkpoint)
    raise CheckpointError(
        f"{folder}: holds neither tokenizer.json nor vocab.txt. If it holds another tokenizer, write it as "
        "tokenizer.json with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
    )


def _vocabulary(
    path: str, backend: Tokenizer, config: dict[str, Any], checkpoint: Checkpoint
) -> EncoderVocabulary:
    special = {i: token.content for i, token in backend.get_added_tokens_decoder().items() if token.special}
    try_out(path, backend)
    frame = frame_of(path, backend)
    shut_out(backend, list(special.values()))
    settings: SentenceTransformers | None = checkpoint.extras.get("sentence_transformers")
    limits = [_sane(config.get("model_max_length")), settings.max_tokens if settings else None]
    return EncoderVocabulary(
        encode=partial(encode_plain, path, backend),
        decode=partial(decode_plain, path, backend),
        frame=frame,
        vocab_size=backend.get_vocab_size(),
        special_ids=frozenset(special),
        prompt_ids={content: i for i, content in special.items()},
        max_tokens=min((limit for limit in limits if limit is not None), default=None),
        lower_case=settings is not None and settings.lower_case,
    )


def _sane(limit: Any) -> int | None:
    return limit if type(limit) is int and 0 < limit < MAX_SANE_TOKENS else None


def _read_json(path: Path, config: dict[str, Any], checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def _read_vocab(path: Path, config: dict[str, Any], checkpoint: Checkpoint) -> Tokenizer:
    """WordPiece (Devlin et al. 2018); a line a token, its number the id."""
    special = {name: _token(config.get(name), default) for name, default in _BERT_TOKENS.items()}
    vocab: dict[str, int] = {}
    with path.open(encoding="utf-8") as lines:
        for i, line in enumerate(lines):
            vocab[line.rstrip("\n")] = i
    missing = [token for name, token in special.items() if token not in vocab and name != "mask_token"]
    if missing:
        raise CheckpointError(f"{path}: the special token {missing[0][:60]!r} is not in it.")
    backend = Tokenizer(models.WordPiece(vocab, unk_token=special["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([AddedToken(token) for token in special.values() if token in vocab])
    cls, sep = special["cls_token"], special["sep_token"]
    seps = [sep, sep] if checkpoint.architecture == "mpnet" else [sep]
    backend.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", *seps, "$B:1", f"{sep}:1"],
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    return backend


def _token(value: Any, default: str) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default


def _apply_bert_options(path: Path, config: dict[str, Any], backend: Tokenizer) -> None:
    """As in transformers, `tokenizer_config.json` goes before the normalizer in `tokenizer.json`."""
    normalizer = backend.normalizer
    if not isinstance(normalizer, normalizers.BertNormalizer):
        return
    options = {
        "lowercase": config.get("do_lower_case"),
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars"),
    }
    for name, value in options.items():
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{path}: the option for {name} is neither true nor false.")
        if value is not None:
            setattr(normalizer, name, value)
    backend.normalizer = normalizer
