"""API keys: kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from llm_serving.config import Settings, SettingsError, env_name, flag_name
from llm_serving.errors import AuthError


class KeyRing:
    """The keys that open this server; without any, it is open."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def from_settings(cls, settings: Settings) -> KeyRing:
        """Keys of the settings and of their file.

        Raises: SettingsError if the file cannot be read or holds no key.
        """
        keys = list(settings.api_key)
        if settings.api_key_file is not None:
            keys += _read_keys(settings.api_key_file)
        return cls(keys)

    @property
    def is_open(self) -> bool:
        return not self._hashes

    def check(self, authorization: bytes | None) -> str:
        """Look at an `Authorization` header's bytes; tell which key it holds by its place, "" if open.

        Raises: AuthError. Every key is compared, so the time does not tell which one was close.
        """
        if self.is_open:
            return ""
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise AuthError("An API key is needed: send the header 'Authorization: Bearer <key>'.")
        given = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        if not any(matches):
            raise AuthError("The API key is wrong.")
        return str(matches.index(True))

    def owner(self, place: str) -> str:
        """Whose things are those of the key at this place: a digest, the same after a restart; "" if open."""
        return _owner(self._hashes[int(place)]) if self._hashes else ""

    def place_of(self, owner: str) -> str | None:
        """The place of an owner's key; None, if it is none of this server's any more."""
        if self.is_open:
            return "" if owner == "" else None
        owners = [_owner(known) for known in self._hashes]
        return str(owners.index(owner)) if owner in owners else None


def _owner(digest: bytes) -> str:
    return hashlib.sha256(digest).hexdigest()[:32]


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach (or be) `host`; unknown names count as reachable."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _read_keys(path: Path) -> list[str]:
    setting = f"{flag_name('api_key_file')} ({env_name('api_key_file')})"
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError(f"{setting}: cannot read {path}: {reason}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise SettingsError(f"{setting}: {path} holds no key")
    return keys
