"""The carrier: adds the caller's hint to requests of the OpenAI SDK, whoever makes them."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from kvflow_agents import pseudonyms, routers
from kvflow_agents.agent_hints import NOTHING_SEEN, Seen
from kvflow_agents.call_records import call_records
from kvflow_agents.conversations import conversations
from kvflow_agents.courier import Courier
from kvflow_agents.courier import courier as process_courier
from kvflow_agents.dialects import (
    ASK,
    DIALECTS,
    NONE,
    SAYS_WHAT_WAS_SEEN,
    TAKES_FORECASTS,
    Additions,
    added_fields,
    is_hinted,
)
from kvflow_agents.failsafe import Failsafe, logger
from kvflow_agents.hints import Hint
from kvflow_agents.inquiry import inquiries
from kvflow_agents.live_lint import live_lint
from kvflow_agents.prompt_recorder import prompt_recorder
from kvflow_agents.recorder import Recorder, call_recorder
from kvflow_agents.refusal import Attempt
from kvflow_agents.sdk import sdk
from kvflow_agents.servers import AllowedServers, Server, root_of
from kvflow_agents.spans import mark_span

HINTED_PATHS = ("/chat/completions", "/completions")
# Bounds what is remembered of workflows that have not ended.
MAX_REMEMBERED = 4096
MAX_UNLISTED = 64


class HintSource(Protocol):
    """A workflow that knows its hints: one run of an application, or a simulation."""

    def hint(self, agent: str) -> Hint:
        """The hint for a call that `agent` makes now."""


class Call(NamedTuple):
    """A model call: which agent of which workflow makes it."""

    workflow: HintSource
    agent: str


Identify = Callable[[], Call | None]
"""Says who is calling, from the context of the call; None for a call that is nobody's."""


@dataclass(slots=True)
class CarrierCounts:
    """What a carrier has done: calls hinted, their retries, calls that no agent made."""

    hinted: int = 0
    retried: int = 0
    anonymous: int = 0


class Carrier:
    """Attaches hints to chat and text completions that go to allowed servers.

    `install` changes the SDK's client classes (openai 2.x and 3.x; sync, async and streaming;
    clients made before and after), `uninstall` restores them. A call that a server refuses for
    its hint is made again without.
    """

    def __init__(
        self,
        identify: Identify,
        base_urls: Iterable[str] | None = None,
        *,
        courier: Courier | None = None,
    ) -> None:
        self.counts = CarrierCounts()
        self.failsafe = Failsafe("a model call")
        self.courier = courier or process_courier
        self._identify = identify
        self._servers = AllowedServers(base_urls)
        self._routers = routers.from_environment()
        self._pseudonyms = pseudonyms.from_environment()
        self._lint = live_lint()
        self._lint_failsafe = Failsafe("a model call's lint")
        self._prompt_recorder = prompt_recorder()
        self._report_failsafe = Failsafe("the report")
        self._recorder = call_recorder()
        self._recorder_failsafe = Failsafe("the recording of calls")
        self._unlisted: set[str] = set()
        self._workflow_servers: OrderedDict[str, set[Server]] = OrderedDict()
        self._lock = threading.Lock()

    def install(self) -> None:
        """Begin to attach hints. Once more changes nothing."""
        sdk.add(self)

    def uninstall(self) -> None:
        """Attach no more; the last carrier to go leaves the SDK as it was."""
        sdk.remove(self)

    def attach(self, client: Any, base_url: str, options: Any, made: Attempt) -> bool:
        """Add the caller's hint to the options of a request, openai's `FinalRequestOptions`.

        Whether it was added. `made`: the call that the request is made for.
        """
        if not _is_hintable(options):
            return False
        dialect = self._servers.dialect(base_url)
        if dialect is None:
            if base_url not in self._unlisted:
                self._say_that_it_is_not_listed(base_url)
            return False
        call = self._identify()
        if call is None:
            self.counts.anonymous += 1
            return False
        body = options.json_data
        if options.extra_json:
            body = {**body, **options.extra_json}
        if is_hinted(body):
            return False
        server = _server(client, base_url, body)
        if dialect == ASK:
            dialect = inquiries.dialect_of(server)
        if dialect is None or dialect == NONE:
            return False
        hint = call.workflow.hint(call.agent)
        said = self._pseudonyms.hide(hint)
        seen = _seen(hint, body) if dialect in SAYS_WHAT_WAS_SEEN else NOTHING_SEEN
        additions = DIALECTS[dialect](said, seen)
        is_router = server in self._routers
        if is_router:
            headers = {**additions.headers, **self._routers.headers(server, said)}
            additions = additions._replace(headers=headers)
        if not _add(client, options, body, additions):
            return False
        is_first = made.hinted_server is None
        self._count(hint, server, is_first=is_first, takes_forecasts=dialect in TAKES_FORECASTS)
        if is_router and is_first and dialect in TAKES_FORECASTS:
            # The call reaches one of them; any may have KV of the workflow's other agents.
            self.post(server, hint)
        self._report_failsafe(_report, hint, server, made)
        if self._recorder is not None:
            self._recorder_failsafe(_record, self._recorder, hint, body, made)
        if self._prompt_recorder is not None and is_first:
            self._recorder_failsafe(self._prompt_recorder.see, hint, body)
        if self._lint is not None:
            self._lint_failsafe(self._lint.see, hint.app or hint.workflow, call.agent, body)
        return True

    def announce(self, hint: Hint) -> None:
        """Tell the servers that have seen the hint's workflow, in the background."""
        self._report_failsafe(call_records.note, hint)
        servers = self.servers_of(hint.workflow)
        if self._recorder is not None and servers:
            self._recorder_failsafe(self._recorder.end, hint)
        if hint.forecast.done:
            with self._lock:
                self._workflow_servers.pop(hint.workflow, None)
        for server in servers:
            self.post(server, hint)

    def post(self, server: Server, hint: Hint) -> None:
        """Post a hint in the background: to a server, or to all behind a router."""
        said = self._pseudonyms.hide(hint)
        for each in self._routers.reached(server):
            self.courier.send(each, said)

    def servers_of(self, workflow: str) -> tuple[Server, ...]:
        """The servers that have seen a workflow's calls."""
        with self._lock:
            return tuple(self._workflow_servers.get(workflow, ()))

    def _say_that_it_is_not_listed(self, base_url: str) -> None:
        call = self._identify()
        if call is None or len(self._unlisted) >= MAX_UNLISTED:
            return
        self._unlisted.add(base_url)
        # Other providers are called on purpose; a listed server by another name is not.
        is_listed = self._servers.list_by_another_name(base_url)
        logger.log(
            logging.WARNING if is_listed else logging.INFO,
            "agent %s calls %s, which is not listed and gets no hints: add it to base_urls",
            call.agent,
            base_url,
        )

    def _count(self, hint: Hint, server: Server, *, is_first: bool, takes_forecasts: bool) -> None:
        """Count a request, and note the server of one that is no retry."""
        with self._lock:
            if not is_first:
                self.counts.retried += 1
                return
            self.counts.hinted += 1
            if not takes_forecasts:
                return
            servers = self._workflow_servers.get(hint.workflow)
            if servers is not None:
                servers.add(server)
                self._workflow_servers.move_to_end(hint.workflow)
                return
            self._workflow_servers[hint.workflow] = {server}
            if len(self._workflow_servers) > MAX_REMEMBERED:
                self._workflow_servers.popitem(last=False)


def _add(client: Any, options: Any, body: Mapping[str, Any], additions: Additions) -> bool:
    """Put additions on a request, but for what the application says itself; whether any is new."""
    fields = added_fields(body, additions.body)
    if fields:
        options.extra_json = {**(options.extra_json or {}), **fields}
    if additions.headers:
        given = options.headers or {}
        named = {name.lower() for name in (*client.default_headers, *given)}
        # They belong together: who names one of them means all.
        if named.isdisjoint(name.lower() for name in additions.headers):
            options.headers = {**given, **additions.headers}
            return True
    return bool(fields)


def _server(client: Any, base_url: str, body: Mapping[str, Any]) -> Server:
    cache_salt, extra_key = body.get("cache_salt"), body.get("extra_key")
    return _server_at(
        base_url,
        client.api_key,
        cache_salt if isinstance(cache_salt, str) else None,
        extra_key if isinstance(extra_key, str) else None,
    )


@lru_cache(maxsize=256)
def _server_at(
    base_url: str, api_key: str | None, cache_salt: str | None, extra_key: str | None
) -> Server:
    return Server(root_of(base_url), api_key, cache_salt, extra_key)


def _seen(hint: Hint, body: Mapping[str, Any]) -> Seen:
    goes_on = conversations.see(hint, body)
    return Seen(call_records.output_tokens(hint.app, hint.agent or ""), goes_on)


def _report(hint: Hint, server: Server, made: Attempt) -> None:
    if made.call is None:  # its retries are the same call
        made.call = call_records.begin(hint, server, made.started_s)
    mark_span(hint)


def _record(recorder: Recorder, hint: Hint, body: Mapping[str, Any], made: Attempt) -> None:
    if made.call is not None and made.call.listener is None:
        made.call.listener = recorder.begin(hint, body)


def _is_hintable(options: Any) -> bool:
    # A whole URL need not lead to the client's server, and a raw body takes no field.
    return (
        options.method.lower() == "post"
        and options.url.startswith("/")
        and options.url.rstrip("/").endswith(HINTED_PATHS)
        and isinstance(options.json_data, (dict, Mapping))  # dict first: it is found at once
    )
