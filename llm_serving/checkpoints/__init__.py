"""Models on disk: one `Checkpoint` and one `Tokenizer`, whatever the file looks like."""

from __future__ import annotations

from llm_serving.checkpoints.adapter import Adapter, LowRank, read_adapter
from llm_serving.checkpoints.chat_tokenizer import build_tokenizer
from llm_serving.checkpoints.checkpoint import Checkpoint, Tensor
from llm_serving.checkpoints.classes import ClassActivation, Classes, read_classes, require_classifier
from llm_serving.checkpoints.dequantize import dequantize
from llm_serving.checkpoints.directory_files import tokenizer_json
from llm_serving.checkpoints.encoder_tokenizer import EncoderTokenizer, build_encoder_tokenizer
from llm_serving.checkpoints.fill_in import FillIn
from llm_serving.checkpoints.gguf import read_gguf
from llm_serving.checkpoints.huggingface import read_family, read_huggingface
from llm_serving.checkpoints.image_processor import read_image_processor
from llm_serving.checkpoints.jinja_file import read_jinja_template
from llm_serving.checkpoints.mapped_file import content_digest, release
from llm_serving.checkpoints.opening import open_checkpoint
from llm_serving.checkpoints.pair_template import (
    PairTemplate,
    qwen3_template,
    read_gguf_pair_template,
)
from llm_serving.checkpoints.projector_file import find_projector
from llm_serving.checkpoints.score_activation import ScoreActivation, read_score_activation
from llm_serving.checkpoints.sentence_transformers import Dense, Pooling, SentenceTransformers
from llm_serving.checkpoints.tokenizer import Tokenizer

__all__ = [
    "Adapter",
    "Checkpoint",
    "ClassActivation",
    "Classes",
    "Dense",
    "EncoderTokenizer",
    "FillIn",
    "LowRank",
    "PairTemplate",
    "Pooling",
    "ScoreActivation",
    "SentenceTransformers",
    "Tensor",
    "Tokenizer",
    "build_encoder_tokenizer",
    "build_tokenizer",
    "content_digest",
    "dequantize",
    "find_projector",
    "open_checkpoint",
    "qwen3_template",
    "read_adapter",
    "read_classes",
    "read_family",
    "read_gguf",
    "read_gguf_pair_template",
    "read_huggingface",
    "read_image_processor",
    "read_jinja_template",
    "read_score_activation",
    "release",
    "require_classifier",
    "tokenizer_json",
]
