"""Keys: hashed, all compared, and addresses that are this machine's."""

from __future__ import annotations

import hmac

import pytest

from llm_serving.errors import AuthError
from llm_serving.ops.auth import KeyRing, is_loopback


def test_keys() -> None:
    ring = KeyRing(["one", "zwölf"])
    assert not ring.is_open
    for good in (b"Bearer one", b"bearer one", b"  BEARER   one ", "Bearer zwölf".encode()):
        assert ring.check(good) == ("1" if "zw" in good.decode() else "0")
    for bad in (None, b"", b"one", b"Bearer", b"Bearer on", b"Bearer one two", b"Basic one", b"\xff\xfe"):
        with pytest.raises(AuthError):
            ring.check(bad)


def test_without_keys_it_is_open() -> None:
    ring = KeyRing()
    assert ring.is_open
    assert ring.check(None) == ring.check(b"Bearer anything") == ""


def test_keys_are_not_kept() -> None:
    ring = KeyRing(["one"])
    assert "one" not in repr(vars(ring))


def test_all_keys_are_compared_even_after_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(["one", "two", "three"])
    num_compared = 0
    compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        nonlocal num_compared
        num_compared += 1
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    ring.check(b"Bearer one")
    assert num_compared == 3


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("::ffff:10.0.0.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
