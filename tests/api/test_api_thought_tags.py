"""Tags other than `<think>`, and what stands around answers, in process: a scripted model for each."""

from __future__ import annotations

import pytest
from fake_server import data_of, open_client
from thinker import ASKED, thinker

from llm_serving.api.convert.tagged import Unwrapper

pytestmark = pytest.mark.anyio

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.thinking }}|{{ m.content }};{% endfor %}"
MAGISTRAL = "[SYSTEM_PROMPT]Think:[THINK]Your thoughts[/THINK]Here[/SYSTEM_PROMPT]" + TURNS
EXAONE = TURNS + "{% set end = '</thought>' %}[|assistant|]<thought>\n"
SEED = "{% set begin = '<seed:think>' %}{% set end = '</seed:think>' %}" + TURNS
GEMMA = TURNS + (
    "{% if not enable_thinking | default(false) and enable_thinking is defined %}"
    "<|channel>thought\n<channel|>{% endif %}"
)
GRANITE = "Write thoughts between <think></think>, the response between <response></response>." + TURNS
HUNYUAN = (
    TURNS
    + "<|extra_0|>{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}"
)
COMMAND = TURNS + "<|START_THINKING|><|END_THINKING|><|START_RESPONSE|><|END_RESPONSE|>{{ '' }}"
APERTUS = TURNS + "{% set inner = ('<|inner_prefix|>', '<|inner_suffix|>') %}<|assistant_start|>"
APRIEL = "End with [BEGIN FINAL RESPONSE]." + TURNS + "Here are my reasoning steps:\n"

MINIMAX = "Think in <mm:think></mm:think>." + TURNS
HUNYUAN_3 = TURNS + "{% set end = '</think{}>'.format(':opensource') %}"


@pytest.mark.parametrize(
    ("template", "reply", "thoughts", "content"),
    [
        (MAGISTRAL, "[THINK]Hm.[/THINK]Hello", "Hm.", "Hello"),
        (MAGISTRAL, "<think>Hello", "", "<think>Hello"),
        (EXAONE, "Hm.\n</thought>\n\nHello", "Hm.", "Hello"),
        (SEED, "<seed:think>Hm.</seed:think>Hello", "Hm.", "Hello"),
        (GEMMA, "<|channel>thought\nHm.<channel|>Hello", "Hm.", "Hello"),
        (GRANITE, "<think>Hm.</think><response>Hello</response>", "Hm.", "Hello"),
        (GRANITE, "Hello </response>", "", "Hello </response>"),
        (HUNYUAN, "<think>\nHm.\n</think>\n<answer>\nHello\n</answer>", "Hm.", "Hello"),
        (HUNYUAN, "<think>\nHm.\n</think>\nHello", "Hm.", "Hello"),
        (
            COMMAND,
            "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Hello<|END_RESPONSE|>",
            "Hm.",
            "Hello",
        ),
        (COMMAND, "<|START_RESPONSE|>Hello<|END_RESPONSE|>", "", "Hello"),
        (APERTUS, "<|inner_prefix|>Hm.<|inner_suffix|>Hello", "Hm.", "Hello"),
        (APERTUS, "Hello", "", "Hello"),
        (APRIEL, "Hm.\n[BEGIN FINAL RESPONSE]\nHello\n[END FINAL RESPONSE]", "Hm.", "Hello"),
        (APRIEL, "Hm.\n[BEGIN FINAL RESPONSE]\nHello.", "Hm.", "Hello."),
        (MINIMAX, "<mm:think>Hm.</mm:think>Hello", "Hm.", "Hello"),
        (MINIMAX, "</mm:think>Hello", "", "Hello"),
        (HUNYUAN_3, "<think:opensource>Hm.</think:opensource>Hello", "Hm.", "Hello"),
    ],
)
async def test_the_template_tells_how_thoughts_stand(
    template: str, reply: str, thoughts: str, content: str
) -> None:
    async with open_client(thinker(template, reply)) as client:
        told = (await client.post("/chat/completions", json=ASKED)).json()["choices"][0]["message"]
        assert (told.get("reasoning_content", ""), told["content"]) == (thoughts, content)
        chunks = data_of((await client.post("/chat/completions", json={**ASKED, "stream": True})).text)[:-1]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("reasoning", "") for delta in deltas) == thoughts
        assert "".join(delta.get("content", "") for delta in deltas) == content


async def test_what_stands_around_answers_is_taken_off_without_thoughts_too() -> None:
    async with open_client(thinker(HUNYUAN, "<answer>\nHello\n</answer>")) as client:
        body = {**ASKED, "reasoning_effort": "none"}
        message = (await client.post("/chat/completions", json=body)).json()["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "Hello"}


async def test_a_switch_and_stop_strings_work_with_any_tags() -> None:
    async with open_client(thinker(GEMMA, "<|channel>thought\nHm.<channel|>Hello.")) as client:
        body = {**ASKED, "reasoning_effort": "none"}
        prompt = (await client.post("/apply-template", json=body)).json()["prompt"]
        assert prompt.endswith("<|channel>thought\n<channel|>")
        message = (await client.post("/chat/completions", json={**ASKED, "stop": ["."]})).json()
        assert message["choices"][0]["message"]["reasoning"] == "Hm."
        assert message["choices"][0]["message"]["content"] == "Hello"


async def test_earlier_thoughts_go_by_the_templates_name() -> None:
    turns = [{"content": "Hi"}, {"role": "assistant", "content": "Yes", "reasoning_content": "Hm"}]
    async with open_client(thinker(MAGISTRAL)) as client:
        prompt = (await client.post("/apply-template", json={"messages": turns})).json()["prompt"]
        assert prompt.endswith("assistant: Hm|Yes;")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<a>\n Hi </a> \n", "Hi"),
        (" <a>Hi", "Hi"),
        ("<a>Hi</a> there</a>", "Hi</a> there"),
        ("<a>Hi</a> there", "Hi</a> there"),
        ("<a>Hi</", "Hi</"),
        ("<a></a>", ""),
        ("<a> ", ""),
        ("<", "<"),
        (" Hi <a>there</a>", " Hi <a>there</a>"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 3, 50])
def test_however_a_wrapped_text_is_cut(text: str, inside: str, step: int) -> None:
    unwrapper = Unwrapper("<a>", "</a>")
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    found = "".join(map(unwrapper.feed, pieces)) + unwrapper.feed("", is_last=True)
    assert found == inside
