"""What an answer must look like → a constraint on its tokens, by `llguidance`, imported on first use."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, Protocol

import numpy as np

from llm_serving.chat.tools import JSON_STYLE
from llm_serving.engine.constraint import TokenConstraint
from llm_serving.errors import ConstraintError

logger = logging.getLogger(__name__)

# Objects with thousands of properties need them. What they cost is bounded below.
_ITEMS_IN_ROW, _STEP_ITEMS = 50_000, 200_000
# Everybody's step waits for a constraint. One that takes more than so much, and so much a token, is given up.
_SPARE_S, _TOKEN_S = 0.5, 0.005
_MOST_ERROR = 400  # characters


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """An answer that is JSON and fits a schema."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Regex:
    """A whole answer in the syntax of Rust's `regex`."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """A context-free grammar, in Lark's notation or llama.cpp's GBNF."""

    source: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these texts."""

    texts: Sequence[str]


Form = JsonSchema | Regex | Grammar | Choice


class GuidedTokenizer(Protocol):
    """What constraints need to know of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_ids(self) -> Collection[int]: ...
    @property
    def special_ids(self) -> Collection[int]: ...

    def piece(self, token_id: int) -> bytes:
        """What a token is called: its bytes, or a special token's name."""
        ...

    def encode(self, text: str) -> list[int]: ...


class Constraints:
    """Constraints for the answers of one model. Thread-safe."""

    def __init__(self, tokenizer: GuidedTokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size  # of the engine's logits
        self._lock = Lock()

    def prepare(self) -> None:
        """Do what the first form would have to wait for: a trie of the vocabulary. Blocking.

        The library holds the GIL all the while, 0.15 s for 49 000 tokens and 1.3 s for 262 000, so
        that every answer of this process stops. Call it while there are none. A vocabulary that the library
        cannot take is a line in the log; only forms fail.
        """
        try:
            with self._lock:
                _ = self._guidance
        except BaseException as error:
            if not _is_of_library(error):
                raise
            logger.warning("answers cannot have a form: %s", str(error)[:_MOST_ERROR])

    def build(self, form: Form, count: int, param: str) -> list[TokenConstraint]:
        """One constraint for each of `count` sequences. Blocking: a large schema takes a second.

        Raises: ConstraintError, which names `param`, for what is no schema, expression or grammar.
        """
        with self._lock:
            tokenizer = self._guidance
        import llguidance

        try:
            matcher = self._matcher(form, tokenizer, llguidance)
        except BaseException as error:
            if not _is_of_library(error):
                raise
            raise _refusal(str(error), param) from None
        if matcher.is_error():
            raise _refusal(matcher.get_error(), param)
        others = [matcher.deep_copy() for _ in range(count - 1)]
        return [FormConstraint(form, one, self._vocab_size) for one in (matcher, *others)]

    def _matcher(self, form: Form, tokenizer: Any, llguidance: Any) -> Any:
        limits = llguidance.LLParserLimits(
            max_items_in_row=_ITEMS_IN_ROW, step_max_items=_STEP_ITEMS, verbose_errors=False
        )
        matcher = llguidance.LLMatcher(tokenizer, _source_of(form, llguidance), log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # what is too large shows with the first token
        return matcher

    @cached_property
    def _guidance(self) -> Any:
        import llguidance

        tokenizer = self._tokenizer
        # Ids beyond the tokenizer's are special ones, which no form of an answer has.
        beyond = range(tokenizer.vocab_size, self._vocab_size)
        names = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)] + [b"<%d>" % i for i in beyond]

        class Wrapped:
            eos_token_id = min(tokenizer.eos_ids, default=tokenizer.vocab_size - 1)
            bos_token_id = None
            tokens = names
            special_token_ids = [*sorted(tokenizer.special_ids), *beyond]

            def __call__(self, text: str) -> list[int]:
                return tokenizer.encode(text)

        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(Wrapped()),
            eos_token=sorted(tokenizer.eos_ids) or [Wrapped.eos_token_id],
        )


def _source_of(form: Form, llguidance: Any) -> str:
    matcher = llguidance.LLMatcher
    source: str
    if isinstance(form, JsonSchema):
        source = matcher.grammar_from_json_schema(json.dumps(form.schema), overrides=JSON_STYLE)
    elif isinstance(form, Regex):
        source = matcher.grammar_from_regex(form.pattern)
    elif isinstance(form, Choice):
        source = matcher.grammar_from_lark("start: " + " | ".join(json.dumps(text) for text in form.texts))
    else:
        from llguidance.gbnf_to_lark import any_to_lark

        source = matcher.grammar_from_lark(any_to_lark(form.source))
    return source


def _refusal(reason: str, param: str) -> ConstraintError:
    reason = reason.partition("\n<non-verbose/>")[0]
    if reason.startswith("NoExtension"):
        reason = "no text fits it"
    return ConstraintError(f"'{param}' cannot be used: {reason[:_MOST_ERROR]}", param)


def _is_of_library(error: BaseException) -> bool:
    """A panic of its Rust code is a BaseException, of a class that cannot be imported."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class FormConstraint:
    """A `TokenConstraint`. What goes wrong, or takes too long, ends the sequence; the log has it.

    `form` is for engines whose sampler is elsewhere.
    """

    def __init__(self, form: Form, matcher: Any, vocab_size: int) -> None:
        self.form = form
        self._matcher = matcher
        self._num_words = (vocab_size + 31) // 32
        self._has_failed = False
        self._num_tokens = 0
        self._spent_s = 0.0

    @property
    def is_over(self) -> bool:
        return self._has_failed or bool(self._matcher.is_stopped())

    @property
    def is_satisfied(self) -> bool:
        return not self._has_failed and not self._matcher.is_error() and bool(self._matcher.is_accepting())

    def forced(self) -> list[int]:
        tokens: list[int] = []
        with self._watched():
            tokens += self._matcher.compute_ff_tokens()
        return tokens

    def allowed(self, draft_ids: Sequence[int] = ()) -> np.ndarray:
        masks = np.full((1 + len(draft_ids), self._num_words), -1, np.int32)
        with self._watched():
            self._fill(masks[0])
            num_taken = 0
            for token, mask in zip(draft_ids, masks[1:], strict=True):
                if not self._matcher.try_consume_tokens([token]):
                    break
                num_taken += 1
                self._fill(mask)
            if num_taken:
                self._matcher.rollback(num_taken)
        return masks.view(np.uint8)

    def accept(self, token_id: int) -> None:
        self._num_tokens += 1
        with self._watched():
            if not self._matcher.consume_token(token_id):
                self._give_up(self._matcher.get_error())
        if self._spent_s > _SPARE_S + _TOKEN_S * self._num_tokens:
            self._give_up(f"it took {self._spent_s:.1f} s for {self._num_tokens} tokens")

    def _fill(self, mask: np.ndarray) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Counts the time; with what goes wrong inside, the sequence is over after one more token."""
        started_s = time.perf_counter()
        try:
            yield
        except BaseException as error:
            if not _is_of_library(error):
                raise
            self._give_up(str(error))
        finally:
            self._spent_s += time.perf_counter() - started_s

    def _give_up(self, reason: str) -> None:
        self._has_failed = True
        logger.warning("a constraint was given up: %s", reason.split("\n")[0][:_MOST_ERROR])
