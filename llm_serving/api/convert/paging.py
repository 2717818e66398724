"""Lists as OpenAI answers them: `order`, `limit` and `after` of a query, a page of what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_serving.errors import InvalidRequest

_MAX_DIGITS = 5


def page_of(
    items: Sequence[dict[str, Any]], query: Mapping[str, str], *, limit: int = 20, most: int = 100
) -> dict[str, Any]:
    """`items` have an `id` each, the oldest first; `limit` is how many are told where the query does not say.

    Raises: InvalidRequest that names what is wrong in the query.
    """
    order, told, after = query.get("order", "desc"), query.get("limit", str(limit)), query.get("after")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be 'asc' or 'desc'.", "order")
    if not (told.isascii() and told.isdigit() and len(told) <= _MAX_DIGITS and 1 <= int(told) <= most):
        raise InvalidRequest(f"'limit' must be from 1 to {most}.", "limit")
    ordered = items if order == "asc" else items[::-1]
    begin = 0
    if after is not None:
        begin = next((i + 1 for i, item in enumerate(ordered) if item["id"] == after), -1)
        if begin < 0:
            raise InvalidRequest("'after' is the id of nothing in this list.", "after")
    page = list(ordered[begin : begin + int(told)])
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": begin + len(page) < len(ordered),
    }
