"""Chat in the terminal: answers are streamed, and know what was said before. An empty line ends it."""

from __future__ import annotations

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8001/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


def answer(messages: list) -> str:
    """Print the next answer as it comes; the whole of it."""
    text = ""
    stream = client.chat.completions.create(model="default", messages=messages, max_tokens=200, stream=True)
    for chunk in stream:
        piece = chunk.choices[0].delta.content or ""
        print(piece, end="", flush=True)
        text += piece
    print()
    return text


def main() -> None:
    messages: list = [{"role": "system", "content": "Answer in one or two sentences."}]
    while question := input("> "):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer(messages)})


if __name__ == "__main__":
    main()
