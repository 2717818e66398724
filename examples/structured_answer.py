"""Facts out of a text, as an object: the answer fits the class, whatever the model would rather say."""

from __future__ import annotations

import os
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8001/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

TEXT = "The blue kettle that I bought in May broke after three weeks. I want my 39 euros back."


class Complaint(BaseModel):
    product: str = Field(max_length=40)
    colour: Literal["red", "green", "blue", "other"]
    price: int
    wants_money_back: bool


def extract(text: str) -> Complaint:
    """What the text complains of. Raises: ValueError if the answer was cut short."""
    answer = client.chat.completions.parse(
        model="default",
        messages=[
            {"role": "system", "content": "Write what the customer says as JSON."},
            {"role": "user", "content": text},
        ],
        response_format=Complaint,
        temperature=0,
        max_tokens=200,
    )
    complaint = answer.choices[0].message.parsed
    if complaint is None:
        raise ValueError(f"no complaint: {answer.choices[0].finish_reason}")
    return complaint


if __name__ == "__main__":
    print(extract(TEXT).model_dump_json(indent=2))
