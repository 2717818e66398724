"""Every error that crosses a package boundary. No HTTP in here: `api/errors.py` maps types to statuses.

ServingError
├── InvalidRequest(param)            the caller's fault; names the field
│   ├── ContextLengthExceeded        the prompt does not fit
│   ├── UnsupportedParameter         a field that is known and not implemented
│   ├── TemplateError                the chat template refused the messages
│   └── ConstraintError              no schema, expression or grammar for an answer
├── AuthError                        missing or wrong key
├── Forbidden                        not on this server, whoever asks
│   └── ForeignPage                  a page of another site asks, through its reader's browser
├── ModelNotFound                    no such model, anywhere
├── ResponseNotFound                  no such response is kept for this key
├── FileNotKept, BatchNotKept         nor such a file, nor such a batch
├── ModelLoading(retry_after_s)      known, not ready yet
├── ModelUnavailable                 known, and will not answer: failed, unloaded, or the server stops
├── Overloaded(retry_after_s)        the queue is full, or the server is draining
├── RequestCancelled                 the client left, or the server stopped
├── EngineDead(cause)                the engine thread died; nothing will answer any more
├── CheckpointError                  a model file is damaged, hostile or of an unknown kind
├── DownloadError                    fetching a model failed
└── MissingExtra(package, extra)     an optional dependency is not installed
"""

from __future__ import annotations


class ServingError(Exception):
    """Base of all errors that are meant for the user: `str(error)` is one clear sentence."""


class InvalidRequest(ServingError):
    """The request is wrong; `param` names the field (dotted path), or None for the whole body."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt plus `max_tokens`, does not fit the model's context."""

    def __init__(self, num_prompt: int, num_max: int, limit: int, param: str = "messages") -> None:
        asked = f" and {num_max} were asked for in the completion" if num_max else ""
        # In words that clients look for: OpenAI's, and those by which LangChain knows the case.
        super().__init__(
            f"This model's maximum context length is {limit} tokens, and the prompt is too long: it has "
            f"{num_prompt}{asked}. Shorten the prompt or lower max_tokens.",
            param,
        )
        self.num_prompt = num_prompt
        self.num_max = num_max
        self.limit = limit


class UnsupportedParameter(InvalidRequest):
    """A field that the API knows and this server does not implement at the given value."""

    def __init__(self, param: str, remedy: str = "Leave it out.") -> None:
        super().__init__(f"The parameter '{param}' is not supported at this value. {remedy}", param)


class TemplateError(InvalidRequest):
    """The model's chat template cannot render these messages."""


class ConstraintError(InvalidRequest):
    """What an answer must look like is no schema, expression or grammar, or one that is too large."""


class AuthError(ServingError):
    """The API key is missing or wrong."""


class Forbidden(ServingError):
    """This server does not do that, whoever asks."""


class ForeignPage(Forbidden):
    """A web page of elsewhere asks a server without keys, from the browser of whoever looks at it."""

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"Pages of {origin[:100]} may not use this server. If they should, start it with "
            "--allowed-origins and their origin, or with --api-key."
        )


class ModelNotFound(ServingError):
    """No model of this name is served or known."""

    def __init__(self, name: str, remedy: str = "") -> None:
        what = f"The model '{name}' does not exist." if name else "There is no model for this."
        super().__init__(f"{what} {remedy}".strip())
        self.name = name


class ResponseNotFound(ServingError):
    """No response of this id is kept for whoever asks."""

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"There is no response '{response_id[:64]}'. They are kept in memory until the server stops, the "
            "latest ones, unless store: false was sent."
        )


class FileNotKept(ServingError):
    """No file of this id is kept for whoever asks."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"There is no file '{file_id[:64]}'. It was deleted or has expired.")


class BatchNotKept(ServingError):
    """No batch of this id is known to whoever asks."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"There is no batch '{batch_id[:64]}'.")


class ModelLoading(ServingError):
    """The model is known and cannot answer yet."""

    def __init__(self, name: str, retry_after_s: int = 5) -> None:
        super().__init__(f"The model '{name}' is loading. Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class ModelUnavailable(ServingError):
    """The model is known and will not answer: it failed, it was unloaded, or the server is stopping."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The model '{name}' cannot answer: {reason}")
        self.reason = reason


class Overloaded(ServingError):
    """No room for this request now; nothing of it was started."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestCancelled(ServingError):
    """The request was aborted before it finished."""

    def __init__(self) -> None:
        super().__init__("The model was unloaded, or the server stopped, before the answer was complete.")


class EngineDead(ServingError):
    """The engine thread died of `cause`; every waiting and later request gets this."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"The engine stopped working: {type(cause).__name__}.")
        self.cause = cause


class CheckpointError(ServingError):
    """A model file is truncated, hostile, or of a kind that cannot be read."""


class DownloadError(ServingError):
    """A model could not be fetched; the cache is as it was before."""


class MissingExtra(ServingError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"This needs '{package}'. Install it with: pip install 'llm-serving[{extra}]'")
        self.package = package
        self.extra = extra
