"""Routers that know nothing of forecasts: the servers behind each, told one by one, and its key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.hints import Hint
from kvflow_agents.servers import Server, root_of

WORKERS_VARIABLE = "KVFLOW_WORKER_URLS"
ROUTING_KEY_HEADER = "x-smg-routing-key"
"""SGLang's gateway sends equal keys to one server, with a policy that looks at it."""
ROUTING_KEY_BYTES = 16


class Routers:
    """The servers behind each router, as the application names them.

    `KVFLOW_WORKER_URLS` is `ROUTER=SERVER,SERVER`, several such entries separated by blanks.
    """

    def __init__(self, workers: Mapping[str, tuple[str, ...]]) -> None:
        """The roots of servers by the root of their router."""
        self._workers = workers

    def __contains__(self, server: Server) -> bool:
        """Whether a server is a router."""
        return server.root_url in self._workers

    def behind(self, server: Server) -> tuple[Server, ...]:
        """The servers that share a router's calls; none if this is no router."""
        workers = self._workers.get(server.root_url, ())
        return tuple([server._replace(root_url=worker) for worker in workers])

    def reached(self, server: Server) -> tuple[Server, ...]:
        """Who answers for a server's calls: those behind it if it is a router, else itself."""
        return self.behind(server) or (server,)

    def headers(self, server: Server, hint: Hint) -> dict[str, str]:
        """By which a router may send an agent's calls where its prefix is; none if this is none."""
        if server not in self or hint.agent is None:
            return {}
        # Not the names: routers log keys, and a header holds no others than ASCII.
        holder = f"{len(hint.workflow)} {hint.workflow}{hint.agent}".encode("utf-8", "replace")
        key = hashlib.blake2b(holder, digest_size=ROUTING_KEY_BYTES).hexdigest()
        return {ROUTING_KEY_HEADER: key}


def from_environment() -> Routers:
    """The routers of `KVFLOW_WORKER_URLS`; ConfigurationError if it cannot be read."""
    workers = {}
    for entry in os.environ.get(WORKERS_VARIABLE, "").split():
        router, _, listed = entry.partition("=")
        urls = [url for url in listed.split(",") if url]
        if not urls or not all(url.startswith(("http://", "https://")) for url in (router, *urls)):
            raise ConfigurationError(
                f"{WORKERS_VARIABLE} has {entry!r}, not http://ROUTER=http://SERVER,http://SERVER"
            )
        workers[root_of(router)] = tuple(map(root_of, urls))
    return Routers(workers)
