"""Bytes that are not trusted, and where each ends: a picture, or one line that says what is wrong with it."""

from __future__ import annotations

import base64
import sys
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from pictures import bomb, data_url, encoded, picture
from PIL import Image

from llm_serving.errors import InvalidRequest
from llm_serving.images.data_url import bytes_of_url, check_url
from llm_serving.images.decoding import decode

PIXELS = 10_000
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("GIF", {})],
)
def test_the_formats(kind: str, options: dict[str, object]) -> None:
    original = picture()
    image = decode(encoded(original, kind, **options), PIXELS, "x")
    assert (image.mode, image.size) == ("RGB", (40, 30))
    difference = np.asarray(image, np.float64) - np.asarray(original, np.float64)
    assert np.abs(difference).mean() < {"PNG": 0.1, "WEBP": 0.1, "JPEG": 3, "GIF": 12}[kind]


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = picture(mode="L").convert(mode) if mode != "I;16" else Image.new("I;16", (40, 30))
    assert decode(encoded(image), PIXELS, "x").mode == "RGB"


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    assert np.asarray(decode(encoded(image), PIXELS, "x")).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_camera_held_sideways() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    assert decode(encoded(picture(), "JPEG", exif=exif), PIXELS, "x").size == (30, 40)


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(data, PIXELS, "x"))[0, 0].tolist() == [255, 0, 0]


def test_one_pixel() -> None:
    assert decode(encoded(picture(1, 1)), 1, "x").size == (1, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(50_000, 50_000), "50000 x 50000 pixels|no image that can be read"),
        (bomb(65_000, 1), "65000 x 1 pixels"),
        (encoded(picture(101, 100)), "101 x 100 pixels"),
        (bomb(90, 100)[:60], "no image|damaged"),
        (encoded(picture())[:200], "damaged or cut short"),
        (encoded(picture(), "JPEG")[:300], "no image|damaged or cut short"),
        (SVG, "Send PNG, JPEG, WebP or GIF"),
        (encoded(picture(), "BMP"), "Send PNG, JPEG, WebP or GIF"),
        (encoded(picture(), "TIFF"), "Send PNG, JPEG, WebP or GIF"),
        (b"hi", "Send PNG, JPEG, WebP or GIF"),
        (b"\x89PNG\r\n\x1a\n", "Send PNG, JPEG, WebP or GIF"),
        (b"GIF89a" + bytes(20), "no image|damaged"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(40), "no image|damaged"),
    ],
)
def test_what_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refusal:
        decode(data, PIXELS, "messages.0.content.1")
    assert str(refusal.value).startswith("'messages.0.content.1' ")
    assert refusal.value.param == "messages.0.content.1"
    assert refusal.value.__cause__ is None


def test_bytes_with_flaws_never_do_anything_else() -> None:
    """A thousand damaged files: each is a picture or a refusal."""
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        whole = encoded(picture(20, 20), kind)
        for _ in range(250):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), rng.integers(1, 6)):
                data[at] = rng.integers(0, 256)
            with suppress(InvalidRequest):
                assert decode(bytes(data), PIXELS, "x").mode == "RGB"


def test_without_pillow_there_is_a_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'llm-serving\[images\]'"):
        decode(b"x", PIXELS, "x")


def test_urls() -> None:
    for url in (data_url(b"abc"), "DATA:;base64,YWJj", "data:image/png;charset=x;BASE64,YWJj"):
        check_url(url, "x")
        assert bytes_of_url(url, "x") == b"abc"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "fetches nothing"),
        ("https://example.com/a.png", "must be a data: URL"),
        ("file:///etc/passwd", "must be a data: URL"),
        ("", "must be a data: URL"),
        ("data:image/png,hello", "in base64"),
        ("data:" + "x" * 300 + ";base64,YWJj", "in base64"),
    ],
)
def test_other_urls(url: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        check_url(url, "x")


@pytest.mark.parametrize("text", ["", "YWJ", "YW Jj", "YWJj\n", "a" * 5, "ä", "-_-_", "YQ=="[:3]])
def test_wrong_base64(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no base64"):
        bytes_of_url(f"data:;base64,{text}", "x")


def test_much_base64_is_quick() -> None:
    data = bytes(4 << 20)
    assert bytes_of_url("data:;base64," + base64.b64encode(data).decode(), "x") == data
