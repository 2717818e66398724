"""The engines that embeddings.py races: each is a function from texts to unit vectors, in this process.

Every one gets what a careful user of it would write: length-sorted batches where the library does not sort
itself. How their environment and files are made: peer_files.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm_serving.backends.native_encoder import load
from llm_serving.checkpoints import build_encoder_tokenizer, open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput

Embed = Callable[[list[str]], np.ndarray]  # float32 [texts, 384]
BATCH = 32
MAX_TOKENS = 256


def ours(model: Path, precision: str, threads: int, isa: str = "auto") -> Embed:
    checkpoint = open_checkpoint(model)
    tokenizer = build_encoder_tokenizer(checkpoint)
    encoder = load(checkpoint, precision, threads, isa=isa)

    def embed(texts: list[str]) -> np.ndarray:
        return encoder.encode([EncoderInput(ids) for ids in tokenizer.encode_batch(texts)])

    return embed


def sentence_transformers(model: Path, threads: int) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    encoder = SentenceTransformer(str(model), device="cpu")

    def embed(texts: list[str]) -> np.ndarray:
        return np.asarray(encoder.encode(texts, batch_size=BATCH, show_progress_bar=False))

    return embed


def onnx(file: Path, model: Path, threads: int) -> Embed:
    """Length-sorted, padded batches, mean pooling."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()

    def batch(texts: list[str]) -> np.ndarray:
        encoded = tokenizer.encode_batch(texts)
        mask = np.array([e.attention_mask for e in encoded], np.int64)
        feed = {"input_ids": np.array([e.ids for e in encoded], np.int64), "attention_mask": mask}
        if "token_type_ids" in names:
            feed["token_type_ids"] = np.zeros_like(mask)
        output = session.run(None, feed)[0]
        if output.ndim == 3:
            output = (output * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return np.asarray(output / np.linalg.norm(output, axis=1, keepdims=True))

    return lambda texts: _sorted(texts, batch)


def fastembed(folder: Path, threads: int) -> Embed:
    """fastembed reads the exported f32 file; it is told where that lies, so it asks no hub."""
    from fastembed import TextEmbedding

    encoder = TextEmbedding(
        "sentence-transformers/all-MiniLM-L6-v2", threads=threads, specific_model_path=str(folder)
    )

    def batch(texts: list[str]) -> np.ndarray:
        return np.stack(list(encoder.embed(texts, batch_size=BATCH)))

    return lambda texts: _sorted(texts, batch)


def llama_cpp(file: Path, threads: int) -> Embed:
    """llama.cpp's server out of `xllamacpp`, called without HTTP; it spreads the texts over its slots."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_parallel = BATCH
    params.n_ctx = BATCH * MAX_TOKENS
    params.n_batch = params.n_ubatch = 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def embed(texts: list[str]) -> np.ndarray:
        answer: Any = server.handle_embeddings({"input": texts, "model": "minilm"})
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return np.array([row["embedding"] for row in rows], np.float32)

    return embed


def _sorted(texts: list[str], batch: Embed) -> np.ndarray:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = np.concatenate(
        [batch([texts[i] for i in order[s : s + BATCH]]) for s in range(0, len(texts), BATCH)]
    )
    return rows[np.argsort(order)]
