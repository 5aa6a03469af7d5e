"""Whose request it is, and names that nobody can read: both as keyed hashes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from kvflow_agents.hints import Hint, renamed
from kvflow_agents.servers import EXTRA_KEY_HEADER, SALT_HEADER
from kvflow_agents.tenants import Tenant
from kvflow_sglang.settings import Settings

TENANT_BYTES = 12
NAME_BYTES = 12


class Identity:
    """Tells tenants apart by what `Settings.tenant_by` says.

    A tenant is the hash of what identifies it, with a key that dies with this process: the secret
    behind it, an API key or a salt, is kept nowhere and cannot be told from it.
    """

    def __init__(self, settings: Settings, *, key: bytes | None = None) -> None:
        self._settings = settings
        self._header = (settings.tenant_header or "").lower()
        self._key = secrets.token_bytes(32) if key is None else key

    def of_request(self, request: Any, headers: Mapping[str, str]) -> Tenant | list[Tenant]:
        """Whose SGLang's `GenerateReqInput` is; of a batch with salts each has its own.

        The names of `headers` are in lower case.
        """
        if self._settings.tenant_by != "salt":
            return self._of_headers(headers)
        salts = (getattr(request, "cache_salt", None), getattr(request, "extra_key", None))
        lists = [each for each in salts if isinstance(each, list)]
        if not lists:
            return self._of_salts(*salts)
        each_of = [each if isinstance(each, list) else [each] * len(lists[0]) for each in salts]
        # Lists of different lengths SGLang refuses.
        return [self._of_salts(*pair) for pair in zip(*each_of, strict=False)]

    def of_call(self, headers: Mapping[str, str]) -> Tenant:
        """Whose call of a `/kvflow/` endpoint it is; salts come in headers, percent-encoded."""
        if self._settings.tenant_by != "salt":
            return self._of_headers(headers)
        salts = (headers.get(SALT_HEADER, ""), headers.get(EXTRA_KEY_HEADER, ""))
        return self._of_salts(*map(unquote, salts))

    def hidden(self, hint: Hint) -> Hint:
        """The hint, with names that only this process can make, if names are to be hashed."""
        return renamed(hint, self.hidden_name) if self._settings.hash_names else hint

    def hidden_name(self, name: str) -> str:
        """A name as it is known behind the door."""
        return self._hash("name", name) if self._settings.hash_names else name

    def _of_headers(self, headers: Mapping[str, str]) -> Tenant:
        if self._settings.tenant_by == "header":
            value = headers.get(self._header)
            return self._hash("header", value) if value else None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return self._hash("key", token) if scheme.lower() == "bearer" and token else None

    def _of_salts(self, cache_salt: object, extra_key: object) -> Tenant:
        salts = [each if isinstance(each, str) else "" for each in (cache_salt, extra_key)]
        if not any(salts):
            return None
        return self._hash("salt", f"{len(salts[0])} {salts[0]}{salts[1]}")

    def _hash(self, kind: str, value: str) -> str:
        size = NAME_BYTES if kind == "name" else TENANT_BYTES
        data = f"{kind} {value}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=size, key=self._key).hexdigest()
