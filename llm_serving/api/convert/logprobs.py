"""Log-probabilities of an answer's tokens, in the shapes of both endpoints."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from llm_serving.engine.request import TokenEvent, TokenLogprobs
from llm_serving.service.echo import Echo
from llm_serving.service.model import PromptTokenizer


class ShownToken(NamedTuple):
    """A token whose text the client has seen."""

    piece: bytes
    text_offset: int  # characters before it, of the answer and what stands before that
    logprobs: TokenLogprobs
    top_pieces: list[bytes]


class VisibleTokens:
    """Holds tokens back as long as their text is: a stop string stays hidden this way, too.

    Of one choice, whose events it takes in order. `num_echoed` characters stand before its text.
    """

    def __init__(self, tokenizer: PromptTokenizer, num_echoed: int = 0) -> None:
        self._tokenizer = tokenizer
        self._waiting: deque[tuple[int, ShownToken]] = deque()  # with the bytes of the answer before each
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_bytes = 0  # of all tokens so far
        self._num_chars = num_echoed
        self._num_shown = 0  # bytes that the client has seen

    def take(self, event: TokenEvent) -> list[ShownToken]:
        """The tokens that may be told with `event`."""
        if event.logprobs is not None:
            self._add(event.token_ids[0], event.logprobs)
        self._num_shown += len(event.text.encode("utf-8"))
        is_whole = event.finish_reason is not None and event.stop_string is None
        shown = []
        while self._waiting and (is_whole or self._waiting[0][0] < self._num_shown):
            shown.append(self._waiting.popleft()[1])
        return shown

    def _add(self, token_id: int, logprobs: TokenLogprobs) -> None:
        tokenizer = self._tokenizer
        top = [tokenizer.piece(i) for i, _ in logprobs.top]
        token = ShownToken(tokenizer.piece(token_id), self._num_chars, logprobs, top)
        self._waiting.append((self._num_bytes, token))
        added = tokenizer.token_bytes[token_id] if token_id < len(tokenizer.token_bytes) else b""
        self._num_bytes += len(added)
        self._num_chars += len(self._decoder.decode(added))


def chat_logprobs(tokens: Sequence[ShownToken]) -> dict[str, Any]:
    """`choices[].logprobs` of `/chat/completions`."""
    return {
        "content": [
            {
                **_named(token.piece, token.logprobs.chosen),
                "top_logprobs": [
                    _named(piece, logprob)
                    for piece, (_, logprob) in zip(token.top_pieces, token.logprobs.top, strict=True)
                ],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Sequence[ShownToken]) -> dict[str, list[Any]]:
    """`choices[].logprobs` of `/completions`. Of tokens that are written alike the likelier one counts."""
    return {
        "tokens": [_text(token.piece) for token in tokens],
        "token_logprobs": [token.logprobs.chosen for token in tokens],
        "top_logprobs": [
            {
                _text(piece): logprob
                for piece, (_, logprob) in reversed(
                    list(zip(token.top_pieces, token.logprobs.top, strict=True))
                )
            }
            for token in tokens
        ],
        "text_offset": [token.text_offset for token in tokens],
    }


def echo_logprobs(
    echo: Echo, found: Sequence[TokenLogprobs], tokenizer: PromptTokenizer
) -> dict[str, list[Any]]:
    """The same of a prompt's tokens. `found` begins with its second: of the first nothing is known."""
    pieces = [tokenizer.piece(i) for i in echo.ids]
    tokens = [
        ShownToken(piece, offset, logprobs, [tokenizer.piece(i) for i, _ in logprobs.top])
        for piece, offset, logprobs in zip(pieces[1:], _offsets(echo, pieces)[1:], found, strict=True)
    ]
    first = {"tokens": _text(pieces[0]), "token_logprobs": None, "top_logprobs": None, "text_offset": 0}
    return {name: [first[name], *column] for name, column in completion_logprobs(tokens).items()}


def _offsets(echo: Echo, pieces: Sequence[bytes]) -> list[int]:
    """Where in the echo's text each token begins."""
    pieces = [b""] * echo.num_added + list(pieces[echo.num_added :])
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets = []
    num_chars = 0
    for piece in pieces:
        offsets.append(num_chars)
        num_chars += len(decoder.decode(piece))
    # Some models put a space before the first text, which is no part of it.
    num_before = int(num_chars > len(echo.text) and b"".join(pieces).startswith(b" "))
    return [min(max(0, offset - num_before), len(echo.text)) for offset in offsets]


def _named(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(piece), "logprob": logprob, "bytes": list(piece)}


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
