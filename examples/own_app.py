"""The models inside an application of one's own: `uvicorn --app-dir examples own_app:app --port 8002`.

Settings come from LLM_SERVING_… variables. Try: curl 'http://127.0.0.1:8002/closest?question=How+do+I+pay%3F'
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from llm_serving import embed_texts, generate_response, lifespan

ANSWERS = {
    "How can I pay?": "By card or by invoice.",
    "When will my parcel arrive?": "Within three days.",
    "How do I send something back?": "With the label that came with it.",
}

app = FastAPI(lifespan=lifespan)


# `def` and not `async def`: FastAPI runs these on threads, where they may wait for a model.
@app.get("/closest")
def closest(question: str) -> dict:
    """The known question that is nearest in meaning, and its answer."""
    *known, asked = np.array(embed_texts([*ANSWERS, question]))
    scores = np.array(known) @ asked
    best = list(ANSWERS)[int(scores.argmax())]
    return {"question": best, "answer": ANSWERS[best], "score": round(float(scores.max()), 3)}


@app.get("/polite")
def polite(text: str) -> dict:
    return {"text": generate_response(f"Say this politely: {text}")}


@app.get("/polite/stream")
def polite_stream(text: str) -> StreamingResponse:
    pieces: Iterator[str] = generate_response(f"Say this politely: {text}", stream=True)
    return StreamingResponse(pieces, media_type="text/plain")
