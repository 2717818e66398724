"""The page for browsers at `/`, and its files: who gets them, with which headers, and what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from fake_server import Client, open_client

import llm_serving.web
from llm_serving.api.routes.playground import CONTENT_SECURITY_POLICY, ROOT
from llm_serving.web.static_files import MEDIA_TYPES, PAGE, static_files

pytestmark = pytest.mark.anyio

FOLDER = Path(llm_serving.web.__file__).with_name("static")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def assert_strict(response: httpx.Response) -> None:
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("accept", [BROWSER, "TEXT/HTML", "application/json, text/html ;q=0.1"])
async def test_browsers_get_the_page(client: Client, accept: str) -> None:
    response = await client.get("/", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "Accept"
    assert response.content == (FOLDER / PAGE).read_bytes()
    assert_strict(response)


@pytest.mark.parametrize(
    "accept",
    ["*/*", "", "text/plain", "application/json", "text/html;q=0", "text/html; q=0.00", "text/html5"],
)
async def test_programs_get_the_sentence(client: Client, accept: str) -> None:
    response = await client.get("/", headers={"accept": accept})
    assert (response.status_code, response.text) == (200, ROOT)
    assert response.headers["content-type"].startswith("text/plain")
    assert response.headers["vary"] == "Accept"


async def test_every_file_is_served_to_everybody() -> None:
    """The page asks for the key, so it must come without one."""
    names = {path.name for path in FOLDER.iterdir()}
    assert set(static_files()) == names
    async with open_client(api_key=("secret",)) as client:
        assert (await client.get("/", headers={"accept": BROWSER})).status_code == 200
        for name in names - {PAGE}:
            response = await client.get(f"/playground/{name}")
            assert response.status_code == 200
            assert response.content == (FOLDER / name).read_bytes()
            assert response.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
            assert_strict(response)


async def test_a_file_that_the_client_has_is_not_sent_again(client: Client) -> None:
    for path, accept in (("/playground/main.js", "*/*"), ("/", BROWSER)):
        etag = (await client.get(path, headers={"accept": accept})).headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            response = await client.get(path, headers={"accept": accept, "if-none-match": known})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
            assert_strict(response)
        for unknown in ('"other"', "", etag.strip('"')):
            response = await client.get(path, headers={"accept": accept, "if-none-match": unknown})
            assert response.status_code == 200


@pytest.mark.parametrize(("path", "accept"), [("/", BROWSER), ("/playground/main.js", "*/*")])
def test_head(live_url: str, path: str, accept: str) -> None:
    headers = {"accept": accept}
    whole, head = httpx.get(live_url + path, headers=headers), httpx.head(live_url + path, headers=headers)
    assert (whole.status_code, head.status_code, head.content) == (200, 200, b"")
    for name in ("content-length", "content-type", "etag", "content-security-policy"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize(
    "path",
    [
        "/playground",
        "/playground/",
        "/playground/none.js",
        "/playground/index.html",
        "/playground/../web/__init__.py",
        "/playground/..%2F__init__.py",
        "/playground/%2e%2e/__init__.py",
        "/playground//etc/passwd",
        "/playground/main.js/",
        "/playground/main.js%00",
    ],
)
async def test_what_is_not_in_the_table_is_not_there(client: Client, path: str) -> None:
    response = await client.get(path, headers={"accept": BROWSER})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


async def test_files_are_only_read(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert (await client.request(method, "/playground/main.js")).status_code == 405


async def test_switched_off() -> None:
    async with open_client(playground=False) as client:
        response = await client.get("/", headers={"accept": BROWSER})
        assert (response.status_code, response.text) == (200, ROOT)
        assert (await client.get("/playground/main.js")).status_code == 404


def test_nothing_comes_from_elsewhere_and_nothing_stands_inline() -> None:
    for name, file in static_files().items():
        text = file.content.decode()
        addresses = re.findall(r"https?://\S+", text)
        assert all(each.startswith("http://www.w3.org/2000/svg") for each in addresses), name
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "@import",
        ):
            assert forbidden not in text, name
    page = static_files()[PAGE].content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", page)
    used = set(re.findall(r'(?:href|src)="playground/([^"]+)"', page))
    scripts = [file.content.decode() for name, file in static_files().items() if name.endswith(".js")]
    used |= {name for script in scripts for name in re.findall(r'from "\./([^"]+)"', script)}
    assert used == set(static_files()) - {PAGE}
