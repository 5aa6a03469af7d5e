"""Which servers get hints, and in which dialect: an allow-list of base URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from kvflow_agents.dialects import ASK, DIALECTS, KVFLOW
from kvflow_agents.errors import ConfigurationError

BASE_URLS_VARIABLE = "KVFLOW_BASE_URLS"
DIALECT_VARIABLE = "KVFLOW_DIALECT"
# Salts of the workflow's requests, percent-encoded, where no request carries them.
SALT_HEADER = "x-kvflow-cache-salt"
EXTRA_KEY_HEADER = "x-kvflow-extra-key"
THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
DEFAULT_PORTS = {"http": 80, "https": 443}

_WITH_DIALECT = re.compile(r"(\w+)\+(https?://.*)", re.IGNORECASE | re.DOTALL)


class Server(NamedTuple):
    """One server as a client reaches it: its root (no `/v1`), and what makes the client known.

    The salts are those that the client's requests carry: hints of one salt never meet another's.
    """

    root_url: str
    api_key: str | None = None
    cache_salt: str | None = None
    extra_key: str | None = None

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"Server({self.root_url!r})"

    def headers(self) -> dict[str, str]:
        """What calls of `/kvflow/` endpoints say of the client."""
        said = {} if not self.api_key else {"Authorization": f"Bearer {self.api_key}"}
        salts = {SALT_HEADER: self.cache_salt, EXTRA_KEY_HEADER: self.extra_key}
        return said | {name: quote(salt, safe="") for name, salt in salts.items() if salt}


class AllowedServers:
    """The base URLs that may receive hints; an entry without a path allows every path.

    An entry may name the dialect that its server speaks, as in `dynamo+http://localhost:8000/v1`,
    or `ask+` to let the server be asked; others speak the one in `KVFLOW_DIALECT`, else `kvflow`.

    Without `base_urls`, `KVFLOW_BASE_URLS` (comma-separated) decides. `OPENAI_BASE_URL` does not:
    names of agents go only to servers that were listed for them.
    """

    def __init__(self, base_urls: Iterable[str] | None = None) -> None:
        if isinstance(base_urls, str):
            raise ConfigurationError(
                f"base_urls must be a list of URLs, not the text {base_urls!r}"
            )
        urls = tuple(_from_environment() if base_urls is None else base_urls)
        if not urls:
            raise ConfigurationError(
                "kvflow does not know which servers take hints: pass "
                f"base_urls=['http://localhost:30000/v1'] or set {BASE_URLS_VARIABLE}"
            )
        default = _dialect(os.environ.get(DIALECT_VARIABLE) or KVFLOW, DIALECT_VARIABLE)
        self._entries = tuple(_entry(url, default) for url in urls)
        self.dialect = lru_cache(maxsize=256)(self._dialect)
        """The dialect of hints to a base URL, or `ask`; None if it may get none."""

    def allows(self, base_url: str) -> bool:
        """Whether a client with this base URL may send hints."""
        return self.dialect(base_url) is not None

    def list_by_another_name(self, base_url: str) -> bool:
        """Whether a server at the same port of this machine is listed."""
        try:
            location = _parse(base_url)
        except ConfigurationError:
            return False
        return location.host in THIS_MACHINE and any(
            each.location.host in THIS_MACHINE and each.location.port == location.port
            for each in self._entries
        )

    def _dialect(self, base_url: str) -> str | None:
        try:
            location = _parse(base_url)
        except ConfigurationError:  # the client reaches its server in a way of its own
            return None
        covering = (each for each in self._entries if each.location.covers(location))
        return next((each.dialect for each in covering), None)


@dataclass(frozen=True, slots=True)
class _Location:
    scheme: str
    host: str
    port: int
    path: str

    def covers(self, other: _Location) -> bool:
        same_origin = (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
        return same_origin and f"{other.path}/".startswith(f"{self.path}/")


@dataclass(frozen=True, slots=True)
class _Entry:
    location: _Location
    dialect: str


@lru_cache(maxsize=256)
def root_of(base_url: str) -> str:
    """A base URL without the `/v1` that OpenAI clients need: where `/kvflow/` lies."""
    return base_url.rstrip("/").removesuffix("/v1")


def _entry(url: str, default: str) -> _Entry:
    named = _WITH_DIALECT.fullmatch(url)
    if named is None:
        return _Entry(_parse(url), default)
    return _Entry(_parse(named[2]), _dialect(named[1].lower(), repr(url)))


def _dialect(name: str, where: str) -> str:
    if name not in DIALECTS and name != ASK:
        raise ConfigurationError(
            f"{where} names the dialect {name!r}; known are {', '.join(DIALECTS)} and {ASK}"
        )
    return name


def _from_environment() -> list[str]:
    text = os.environ.get(BASE_URLS_VARIABLE, "")
    return [url.strip() for url in text.split(",") if url.strip()]


def _parse(url: str) -> _Location:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not an http or https URL with a host")
    return _Location(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        path=parts.path.rstrip("/"),
    )
