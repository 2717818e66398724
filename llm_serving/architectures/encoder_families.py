"""Families of embedding and reranking models as data. A new one is one file and one line in this table."""

from __future__ import annotations

ENCODER_FAMILIES = {
    "bert": "bert:describe_bert",
    "roberta": "bert:describe_roberta",
    "xlm-roberta": "bert:describe_roberta",
    "camembert": "bert:describe_roberta",
    "distilbert": "bert:describe_distilbert",
    "mpnet": "bert:describe_mpnet",
    "deberta-v2": "deberta:describe",
    "nomic_bert": "nomic_bert:describe",
    "nomic-bert": "nomic_bert:describe_gguf",
    "nomic-bert-moe": "nomic_bert:describe_gguf",
    "jina-bert-v2": "jina_bert:describe_gguf",
    "modernbert": "modernbert:describe",
    "modern-bert": "modernbert:describe_gguf",
    "gemma3_text": "gemma_embedding:describe",
    "gemma-embedding": "gemma_embedding:describe",  # as GGUF files call it
    "qwen3": "qwen3_embedding:describe",
}
