"""One switch for every adapter whose framework is installed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.failsafe import Failsafe, logger
from kvflow_agents.patches import Patches
from kvflow_agents.servers import AllowedServers

GROUP = "kvflow.adapters"
"""The entry points that name adapters: a framework's name, and its package's adapter object."""

failsafe = Failsafe("instrument()")


class Registered(Protocol):
    """What an entry point leads to: an `Adapter` that says where its parts are."""

    @property
    def subscriptions(self) -> Subscriptions: ...

    @property
    def patches(self) -> Patches: ...


@dataclass(frozen=True, slots=True)
class Instrumentation:
    """What `instrument` found: the frameworks that are hinted, and why others are not."""

    on: tuple[str, ...]
    skipped: Mapping[str, str]


_lock = threading.Lock()


def instrument(*, base_urls: Iterable[str] | None = None) -> Instrumentation:
    """Hint every run of every installed framework that has an adapter.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so;
    ConfigurationError if neither does. What cannot be hinted is skipped,
    and logged: a framework that is missing or of an unknown version, an adapter that is on for
    other servers. Imports the frameworks that it finds. Once more changes nothing.
    """
    urls = base_urls if base_urls is None or isinstance(base_urls, str) else (*base_urls,)
    AllowedServers(urls)  # says what is wrong with them before anything is on
    with _lock:
        reasons = {entry.name: _turn_on(entry, urls) for entry in _entries()}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    return Instrumentation(tuple(name for name in reasons if name not in skipped), skipped)


def uninstrument() -> None:
    """Undo `instrument`, and that of each adapter; apps that were wrapped stay hinted."""
    with _lock:
        for entry in _entries():
            failsafe(_turn_off, entry)


def _entries() -> list[EntryPoint]:
    """By name, which is the order in which adapters are asked who calls; each name once."""
    by_name = {entry.name: entry for entry in entry_points(group=GROUP)}
    return [by_name[name] for name in sorted(by_name)]


def _turn_on(entry: EntryPoint, urls: Iterable[str] | None) -> str | None:
    """Why a framework is not hinted; None if it is."""
    found = failsafe(_subscribe, entry, urls)
    if isinstance(found, Patches):
        return found.problem  # it has warned of it
    reason = found or "its adapter failed"
    logger.info("kvflow skips %s: %s", entry.name, reason)
    return reason


def _subscribe(entry: EntryPoint, urls: Iterable[str] | None) -> Patches | str:
    """An adapter's patches, or why it cannot be on."""
    adapter: Registered = entry.load()
    try:
        adapter.subscriptions.subscribe_process(urls)
    except ConfigurationError as error:
        return str(error)
    return adapter.patches


def _turn_off(entry: EntryPoint) -> None:
    adapter: Registered = entry.load()
    adapter.subscriptions.unsubscribe_process()
