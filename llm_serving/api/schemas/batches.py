"""`POST /batches`, and the fields of a form that come with a file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.responses import MAX_METADATA, Metadata

SHORTEST_S, LONGEST_S = 3600, 30 * 24 * 3600


class Expiry(BaseModel):
    """How long a file is kept, counted from when it was made."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=SHORTEST_S, le=LONGEST_S)]


class FileFields(BaseModel):
    """What a form says beside the file; all is text there."""

    model_config = ConfigDict(extra="allow")

    purpose: Literal["batch"]
    expires_after: Expiry | None = None

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know."""
        return dict(self.model_extra or {})


class BatchRequest(BaseModel):
    """What is to be done with a file of requests."""

    model_config = ConfigDict(strict=True, extra="allow")

    input_file_id: str = Field(max_length=64)
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = Field(None, max_length=MAX_METADATA)
    output_expires_after: Expiry | None = None

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know."""
        return dict(self.model_extra or {})
