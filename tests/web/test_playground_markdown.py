"""The playground's markdown, in a browser: what it makes, however the text comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import chromium, opened
from fake_server import fake_app, running_server

pytestmark = pytest.mark.filterwarnings("default")

SHOW = """async ([text, size]) => {
    const { GrowingText } = await import("/playground/growing_text.js");
    const container = document.createElement("div");
    const growing = new GrowingText(container);
    for (let at = 0; at < text.length; at += size) growing.append(text.slice(at, at + size));
    growing.end();
    for (const head of container.querySelectorAll(".head")) head.remove();
    return container.innerHTML;
}"""
REDONE = """async ([text, size]) => {
    const { GrowingText } = await import("/playground/growing_text.js");
    const container = document.createElement("div");
    const growing = new GrowingText(container);
    let written = 0;
    const count = (node) => { written += node.textContent.length; };
    const observer = new MutationObserver((records) => {
        for (const record of records) {
            record.addedNodes.forEach(count);
        }
    });
    observer.observe(container, { childList: true, subtree: true });
    for (let at = 0; at < text.length; at += size) {
        growing.append(text.slice(at, at + size));
        await null;
    }
    growing.end();
    await null;
    return written;
}"""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with (
        running_server(fake_app()) as at,
        chromium() as browser,
        opened(browser, at) as page,
    ):
        yield page


CASES = {
    "one\ntwo\n\nthree": "<p>one\ntwo</p><p>three</p>",
    "## A *b*\ntext": "<h3>A <em>b</em></h3><p>text</p>",
    "**a** __b__ *c* _d_ ***e***": "<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em> "
    "<strong><em>e</em></strong></p>",
    "*a **b** c*": "<p><em>a <strong>b</strong> c</em></p>",
    "snake_case_name 2 * 3 * 4 **open": "<p>snake_case_name 2 * 3 * 4 **open</p>",
    "**a *b** c": "<p><strong>a *b</strong> c</p>",
    r"\*a\* \n": r"<p>*a* \n</p>",
    "`a` ``b`c`` `open": "<p><code>a</code> <code>b`c</code> `open</p>",
    "`**a**`": "<p><code>**a**</code></p>",
    "[a *b*](https://x.org/a_(b)?c=d)": '<p><a href="https://x.org/a_(b)?c=d" rel="noopener noreferrer" '
    'target="_blank">a <em>b</em></a></p>',
    "[a](javascript:alert(1)) [b](data:text/html,x) [c](/d) [e]()": "<p>[a](javascript:alert(1)) "
    "[b](data:text/html,x) [c](/d) [e]()</p>",
    "<b>&amp;</b>": "<p>&lt;b&gt;&amp;amp;&lt;/b&gt;</p>",
    "- a\n- b\n  more\n\n- c\n\nend": "<ul><li>a</li><li>b\nmore</li><li>c</li></ul><p>end</p>",
    "1. a\n   - b\n   - c\n2. d": "<ol><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ol>",
    "3) a\n4) b": '<ol start="3"><li>a</li><li>b</li></ol>',
    "- a\n1. b": "<div><ul><li>a</li></ul><ol><li>b</li></ol></div>",
    "a\n```js\nlet x = `1`;\n\n**b**\n```\nc": '<p>a</p><div class="code"><pre tabindex="0"><code>'
    "let x = `1`;\n\n**b**\n</code></pre></div><p>c</p>",
    "1. a\n   ```\n   b\n     c\n   ```\n2. d": '<ol><li>a</li></ol><div class="code"><pre tabindex="0">'
    '<code>b\n  c\n</code></pre></div><ol start="2"><li>d</li></ol>',
    "````\n```\n````": '<div class="code"><pre tabindex="0"><code>```\n</code></pre></div>',
    "~~~\na": '<div class="code"><pre tabindex="0"><code>a\n</code></pre></div>',
    "": "",
    "\n\n": "",
}


@pytest.mark.parametrize("text", CASES)
def test_what_it_makes(page: Any, text: str) -> None:
    assert page.evaluate(SHOW, [text, 10_000]) == CASES[text]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_it_makes_the_same_however_the_text_comes(page: Any, size: int) -> None:
    long = (
        "\n\n".join(CASES) + "\n\n" + "word " * 2000 + "\n\n" + "\n".join(f"- item {i}" for i in range(800))
    )
    for text in (*CASES, long):
        assert page.evaluate(SHOW, [text, size]) == page.evaluate(SHOW, [text, len(text) + 1])


@pytest.mark.parametrize(
    "text",
    [
        "word " * 20_000,
        "A paragraph of some words.\n\n" * 3_000,
        "- an item\n" * 8_000,
        "```\n" + "a line of code\n" * 6_000,
        "```\n" + "x" * 100_000,
        "**a [b `c _d " * 8_000,
    ],
    ids=["one line", "paragraphs", "items", "code", "one line of code", "marks"],
)
def test_the_work_is_linear(page: Any, text: str) -> None:
    """Characters written to the page: while short again and again, then a few times each."""
    assert page.evaluate(REDONE, [text, 50]) < 15 * len(text)
