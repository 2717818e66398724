"""The model calls functions of this program, and answers with what they return."""

from __future__ import annotations

import json
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8001/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

STOCK = {"apples": 12, "pears": 0, "plums": 40}


def count(fruit: str) -> str:
    return f"There are {STOCK[fruit]} {fruit}."


FUNCTIONS = {"count": count}
PARAMETERS = {
    "type": "object",
    "properties": {"fruit": {"enum": list(STOCK)}},
    "required": ["fruit"],
    "additionalProperties": False,
}
DESCRIPTION = {"name": "count", "description": "How many are left", "parameters": PARAMETERS, "strict": True}
TOOLS: list = [{"type": "function", "function": DESCRIPTION}]


def ask(question: str, max_rounds: int = 3) -> str:
    """The answer. A small model has to be told when to call (first round) and when to stop (last round)."""
    messages: list = [{"role": "user", "content": question}]
    for i in range(max_rounds):
        choice = "required" if i == 0 else "none" if i == max_rounds - 1 else "auto"
        answer = client.chat.completions.create(
            model="default", messages=messages, tools=TOOLS, tool_choice=choice, temperature=0, max_tokens=100
        )
        message = answer.choices[0].message
        if not message.tool_calls:
            break
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
            print(f"{call.function.name}({call.function.arguments}): {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return message.content or ""


if __name__ == "__main__":
    print(ask("How many plums do we have?"))
