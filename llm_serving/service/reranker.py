"""What a reranker's files say beyond its weights: its prompt, the tokens it answers with, its activation."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from llm_serving.chat.template import ChatTemplate
from llm_serving.checkpoints import (
    Checkpoint,
    EncoderTokenizer,
    PairTemplate,
    ScoreActivation,
    SentenceTransformers,
    build_encoder_tokenizer,
    qwen3_template,
    read_gguf_pair_template,
    read_jinja_template,
    read_score_activation,
)
from llm_serving.errors import CheckpointError, TemplateError

# A chat template that is for pairs names both roles. Noncharacters hold their places while it is rendered.
_ROLES = (re.compile("[\"']query[\"']"), re.compile("[\"']document[\"']"))
_MARKS = re.compile("\ufdd0(query|document)\ufdd1")


@dataclass(frozen=True, slots=True)
class Reranker:
    """A checkpoint with `extras["answers"]` if a language model ranks, its tokenizer, and its activation."""

    checkpoint: Checkpoint
    tokenizer: EncoderTokenizer
    activation: ScoreActivation


def open_reranker(checkpoint: Checkpoint) -> Reranker:
    """Raises: CheckpointError if something is damaged or not supported."""
    plain = build_encoder_tokenizer(checkpoint)
    answers = _answers(checkpoint, plain)
    if answers is not None:
        checkpoint = replace(checkpoint, extras={**checkpoint.extras, "answers": answers})
    template = _template(checkpoint, answers is not None)
    tokenizer = plain if template is None else plain.with_template(template)
    return Reranker(checkpoint, tokenizer, read_score_activation(checkpoint))


def _answers(checkpoint: Checkpoint, tokenizer: EncoderTokenizer) -> tuple[int, ...] | None:
    """Ids of the tokens whose logits make the score: that for yes, then that for no if there is one.

    GGUF files have their rows as a head. As sentence-transformers has it, "yes" and "no" is the default.
    """
    if checkpoint.format == "gguf":
        return None
    settings: SentenceTransformers | None = checkpoint.extras.get("sentence_transformers")
    if settings is not None and settings.answers is not None:
        return settings.answers
    names = checkpoint.metadata.get("architectures") or [""]
    if not str(names[0]).endswith("ForCausalLM"):
        return None
    yes, no = (tokenizer.single_token(word) for word in ("yes", "no"))
    if yes is None or no is None:
        raise CheckpointError(f"{checkpoint.path}: has no tokens 'yes' and 'no' to rank with.")
    return yes, no


def _template(checkpoint: Checkpoint, answers: bool) -> PairTemplate | None:
    """The prompt that pairs are put into; None where special tokens between them are all.

    Directories of Qwen3-Reranker and conversions to a classifier may bring the chat template of the model
    that it was made from, which is not for pairs: then the one of the model card is used.
    """
    is_qwen3 = checkpoint.architecture == "qwen3"
    if checkpoint.format == "gguf":
        has_answers = checkpoint.hyper("classifier.output_labels") is not None
        fallback = qwen3_template() if is_qwen3 and has_answers else None
        return read_gguf_pair_template(checkpoint) or fallback
    settings: SentenceTransformers | None = checkpoint.extras.get("sentence_transformers")
    instruction = settings.prompts.get(settings.default_prompt or "") if settings is not None else None
    source = read_jinja_template(Path(checkpoint.path))
    if source is not None and all(role.search(source) for role in _ROLES):
        opens_answer = settings is not None and settings.opens_answer
        return _rendered(checkpoint, source, instruction, opens_answer)
    return qwen3_template(instruction) if is_qwen3 and (answers or source is not None) else None


def _rendered(
    checkpoint: Checkpoint, source: str, instruction: str | None, opens_answer: bool
) -> PairTemplate:
    """As sentence-transformers renders it: a message for each of the two, the instruction as the system's."""
    pair = [{"role": role, "content": f"\ufdd0{role}\ufdd1"} for role in ("query", "document")]
    system = [{"role": "system", "content": instruction}] if instruction else []
    where = f"{checkpoint.path}: the chat template"
    try:
        text = ChatTemplate(source).render([*system, *pair], add_generation_prompt=opens_answer)
    except TemplateError as error:
        raise CheckpointError(f"{where} cannot render a pair: {error}") from error
    return PairTemplate.parse(text, where, _MARKS)
