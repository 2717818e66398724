"""The playground as a user has it: a browser, the fake engine, and a server between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import chromium, opened, say, texts, wait_for_end, wait_until
from fake_server import fake_app, running_server
from thinker import thinker

pytestmark = pytest.mark.filterwarnings("default")

REPLY = "Hello, **world**!"
ENDLESS = "And so on. " * 2000
HOSTILE = (
    "<img src=x onerror=alert(1)> [a](javascript:alert(1)) [b](//elsewhere.example) <script>alert(1)</script>"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(fake_app(behaviour={"reply": REPLY})) as at:
        yield at


def test_an_answer_with_its_measures(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        page.wait_for_selector("#status:has-text('Ready')")
        assert page.locator("#model option").all_inner_texts() == ["fake"]
        page.fill("#prompt", "one")
        page.press("#prompt", "Shift+Enter")
        page.type("#prompt", "two")
        page.press("#prompt", "Enter")
        wait_for_end(page)
        assert texts(page) == ["one\ntwo", "Hello, world!"]
        assert page.locator("strong").inner_text() == "world"
        measures = page.locator(".measures").inner_text()
        assert all(part in measures for part in ("18 tokens", "tokens/s", "first after"))


def test_a_long_conversation_goes_on_and_tells_what_is_left_out(browser: Any) -> None:
    app = fake_app(behaviour={"reply": REPLY}, context_length=300, max_new_tokens=30)
    with running_server(app) as at, opened(browser, at) as page:
        for question in "abc":
            say(page, question * 90)
            wait_for_end(page)
        assert "without the 2 oldest messages" in page.locator(".measures").last.inner_text()


def test_it_streams_and_can_be_stopped(browser: Any) -> None:
    app = fake_app(behaviour={"reply": ENDLESS, "step_seconds": 0.01}, max_new_tokens=4000)
    engine = app.state.services.registry.default
    with running_server(app) as at, opened(browser, at) as page:
        for stop in (lambda: page.click("#stop"), lambda: page.keyboard.press("Escape")):
            say(page, "go on")
            page.wait_for_selector(".message:last-child:has-text('so on')")
            assert page.locator(".message:last-child").get_attribute("aria-busy") == "true"
            assert engine.get().engine.stats().num_running == 1
            stop()
            page.wait_for_selector(".message:last-child .measures:has-text('stopped')")
            wait_until(page, lambda: engine.get().engine.stats().num_running == 0)
            assert "And so on." in texts(page)[-1]
            assert len(texts(page)[-1]) < len(ENDLESS)


def test_what_was_said_before_a_reload_is_kept(browser: Any) -> None:
    app = fake_app(behaviour={"reply": ENDLESS, "step_seconds": 0.01}, max_new_tokens=4000)
    with running_server(app) as at, opened(browser, at) as page:
        other = page.context.new_page()
        other.goto(at)
        say(page, "go on")
        page.wait_for_selector(".message:last-child:has-text('so on')")
        page.reload()
        assert texts(page)[0] == "go on"
        assert "And so on." in texts(page)[1]
        other.goto("about:blank")
        page.reload()
        assert texts(page)[0] == "go on"


def test_a_reload_keeps_it_and_a_new_one_can_be_taken_back(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        say(page, "first")
        wait_for_end(page)
        page.click("#open-settings")
        page.fill("#system", "Be kind.")
        page.fill("#temperature", "0.5")
        page.click("#settings button[type=submit]")
        page.reload()
        assert texts(page) == ["first", "Hello, world!"]
        assert page.locator(".measures").inner_text().startswith("18 tokens")
        assert page.input_value("#system") == "Be kind."
        page.click("#new")
        assert texts(page) == []
        page.click("#notice button")
        assert texts(page) == ["first", "Hello, world!"]
        page.click("#open-settings")
        page.click("#clear")
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        assert texts(page) == []
        assert page.input_value("#system") == ""


def test_edit_and_regenerate(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        bodies: list[Any] = []
        page.on(
            "request", lambda request: bodies.append(request.post_data_json) if request.post_data else None
        )
        for text in ("first", "second"):
            say(page, text)
            wait_for_end(page)
        assert page.get_by_role("button", name="Edit").count() == 1
        page.get_by_role("button", name="Regenerate").click()
        wait_for_end(page)
        page.get_by_role("button", name="Edit").click()
        assert page.input_value("#prompt") == "second"
        page.keyboard.press("Escape")
        assert page.input_value("#prompt") == ""
        page.get_by_role("button", name="Edit").click()
        say(page, "changed")
        wait_for_end(page)
        assert texts(page) == ["first", "Hello, world!", "changed", "Hello, world!"]
        asked = [[message["content"] for message in body["messages"]] for body in bodies]
        assert asked == [["first"], *[["first", REPLY, "second"]] * 2, ["first", REPLY, "changed"]]
        assert all(body["stream"] and body["stream_options"] == {"include_usage": True} for body in bodies)


def test_settings_are_sent_and_exported(browser: Any, url: str, tmp_path: Path) -> None:
    with opened(browser, url) as page:
        page.wait_for_selector("#model option", state="attached")
        page.click("#open-settings")
        page.fill("#system", "Be kind.")
        page.fill("#temperature", "0")
        page.fill("#max-tokens", "5")
        page.keyboard.press("Escape")
        say(page, "Hi")
        wait_for_end(page)
        assert texts(page)[-1] == "Hello"
        assert "cut" in page.locator(".measures").inner_text()
        page.click("#open-settings")
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(tmp_path / "conversation.json")
    exported = json.loads((tmp_path / "conversation.json").read_text())
    said = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")]
    assert exported == {
        "model": "fake",
        "temperature": 0,
        "max_tokens": 5,
        "messages": [{"role": role, "content": content} for role, content in said],
    }


def test_what_a_model_says_is_text(browser: Any) -> None:
    with running_server(fake_app(behaviour={"reply": HOSTILE})) as at, opened(browser, at) as page:
        say(page, HOSTILE)
        wait_for_end(page)
        assert texts(page) == [HOSTILE, HOSTILE]
        page.reload()
        assert texts(page) == [HOSTILE, HOSTILE]
        assert page.locator("main :is(img, script, a)").count() == 0


def test_thoughts_are_folded(browser: Any) -> None:
    app = fake_app(load=thinker(reply="<think>\nHm, *well*.\n</think>\n\nHello."))
    with running_server(app) as at, opened(browser, at) as page:
        say(page, "Hi")
        wait_for_end(page)
        assert texts(page)[-1] == "Hello."
        thoughts = page.locator(".thoughts .text")
        assert not thoughts.is_visible()
        page.click(".thoughts summary")
        assert thoughts.inner_text().strip() == "Hm, well."


def test_the_key_is_asked_for_and_kept_for_the_tab(browser: Any) -> None:
    with (
        running_server(fake_app(behaviour={"reply": REPLY}, api_key=("secret",))) as at,
        opened(browser, at, may_complain=True) as page,  # a browser complains about each 401 itself
    ):
        page.wait_for_selector("#key-dialog[open]")
        assert "Bearer" in page.locator("#key-reason").inner_text()
        page.fill("#key", "guess")
        page.press("#key", "Enter")
        page.wait_for_selector("#key-reason:has-text('wrong')")
        page.click("#key-cancel")
        say(page, "Hi")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        wait_for_end(page)
        assert texts(page) == ["Hi", "Hello, world!"]
        page.reload()
        page.wait_for_selector("#model option", state="attached")
        assert not page.locator("#key-dialog").is_visible()
        assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


def test_errors_are_told_in_the_servers_words(browser: Any, url: str) -> None:
    with opened(browser, url, may_complain=True) as page:
        page.wait_for_selector("#model option", state="attached")
        page.click("#open-settings")
        page.fill("#temperature", "5")
        page.keyboard.press("Escape")
        say(page, "Hi")
        wait_for_end(page)
        assert "'temperature' should be less than or equal to 2" in page.locator(".error").inner_text()
        page.click("#open-settings")
        page.fill("#temperature", "")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Try again").click()
        wait_for_end(page)
        assert texts(page) == ["Hi", "Hello, world!"]


def test_the_state_of_the_model_is_told(browser: Any) -> None:
    headers = {"authorization": "Bearer secret"}
    with (
        running_server(fake_app(api_key=("secret",))) as at,
        opened(browser, at, may_complain=True) as page,
    ):
        page.wait_for_selector("#status:has-text('Ready on fake.')")
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        assert httpx.post(f"{at}/admin/models/fake/unload", headers=headers).is_success
        say(page, "Hi")
        wait_for_end(page)
        assert "unloaded" in page.locator(".error").inner_text()
        page.wait_for_selector("#status.wrong:has-text('The model is unloaded.')")
        assert httpx.post(f"{at}/admin/models/fake/load", headers=headers).is_success
        page.wait_for_selector("#status:has-text('Ready on fake.')")


def test_the_end_stays_in_sight_only_for_who_is_there(browser: Any) -> None:
    app = fake_app(behaviour={"reply": "And so on.\n\n" * 300, "step_seconds": 0.002}, max_new_tokens=3000)
    with running_server(app) as at, opened(browser, at, viewport={"width": 360, "height": 500}) as page:
        log = page.locator("#log")

        def place() -> float:
            return float(log.evaluate("log => log.scrollTop"))

        def rest() -> float:
            return float(log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight"))

        say(page, "go on")
        wait_until(page, lambda: place() > 200)
        assert rest() < 48
        page.mouse.move(180, 200)
        page.mouse.wheel(0, -400)
        page.wait_for_selector("#to-latest:visible")
        page.wait_for_timeout(300)  # the wheel rolls on for a while
        left_at = place()
        wait_until(page, lambda: rest() > 800)
        assert place() == left_at
        page.click("#to-latest")
        wait_until(page, lambda: rest() < 48)
        page.click("#stop")


def test_growing_is_not_leaving(browser: Any) -> None:
    """What comes between a scroll and the frame in which it is told."""
    app = fake_app(behaviour={"reply": "And so on.\n\n" * 60}, max_new_tokens=3000)
    with running_server(app) as at, opened(browser, at, viewport={"width": 360, "height": 500}) as page:
        say(page, "go on")
        wait_for_end(page)
        log = page.locator("#log")
        page.evaluate("document.getElementById('log').scrollTop = 1e6")
        wait_until(page, lambda: page.locator("#to-latest").is_hidden())
        for step in ("log.scrollTop -= 20", "log.scrollTop += 10; log.lastElementChild.append(tall)"):
            log.evaluate(
                "log => { const tall = document.createElement('p'); tall.textContent = 'x '.repeat(2000);"
                f" {step}; return new Promise(seen => requestAnimationFrame(() => setTimeout(seen, 50))); }}"
            )
        assert log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight") < 48
        assert page.locator("#to-latest").is_hidden()


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_window(browser: Any, width: int) -> None:
    reply = f"{'x' * 400}\n\n```\n{'y' * 400}\n```\n\n`{'z' * 400}`"
    app = fake_app(behaviour={"reply": reply})
    with running_server(app) as at, opened(browser, at, viewport={"width": width, "height": 700}) as page:
        say(page, "w" * 400)
        wait_for_end(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        log = "document.getElementById('log')"
        assert page.evaluate(f"{log}.scrollWidth <= {log}.clientWidth")
