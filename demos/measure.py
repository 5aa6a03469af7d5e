"""What a run's model calls cost: seen at the calls themselves and in the server's metrics."""

from __future__ import annotations

import json
import threading
import urllib.request
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from demos.optimum import PromptCall
from kvflow_agents.prefix import common_prefix_tokens

TIMEOUT_S = 60.0
COUNTERS = ("sglang:evicted_tokens_total", "sglang:load_back_tokens_total")

STATUS_COUNTERS = ("prefetched_tokens", "lora_loads")


@dataclass(slots=True)
class CallRecord:
    """One model call of one workflow's agent."""

    workflow: str
    agent: str
    messages: Sequence[dict[str, Any]]
    """As they travel, the system prompt first."""
    tools: Any
    started_s: float
    ended_s: float = 0.0
    answer: str = ""
    tokens: array[int] = field(default_factory=lambda: array("q"))
    """The prompt, chat template and all; filled in after the run."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0

    @property
    def latency_ms(self) -> float:
        return (self.ended_s - self.started_s) * 1000


@dataclass
class CallLog:
    """The calls of all workflows of a run, in the order in which they ended."""

    on_call: Callable[[], None] = lambda: None
    calls: list[CallRecord] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, call: CallRecord) -> None:
        """Note a call that has ended."""
        with self._lock:
            self.calls.append(call)
        self.on_call()

    def in_order(self) -> list[CallRecord]:
        """The calls in order of start."""
        return sorted(self.calls, key=lambda call: call.started_s)

    def by_turn(self) -> dict[tuple[str, str, int], CallRecord]:
        """Each call by workflow, agent and how many calls the agent had made before."""
        made: Counter[tuple[str, str]] = Counter()
        calls = {}
        for call in self.in_order():
            who = (call.workflow, call.agent)
            calls[(*who, made[who])] = call
            made[who] += 1
        return calls


class Counted(NamedTuple):
    """Tokens that a server has moved."""

    evicted_tokens: int
    loaded_tokens: int
    """Back to the device because a request asked for them."""
    prefetched_tokens: int
    """Back to the device before one did."""
    adapter_loads: int | None
    """Of LoRA adapters that a request asked for and that were not there; stock does not count."""


class ServerFigures:
    """What the server itself has counted since the last `reset`; needs `--enable-metrics`."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._at_reset: dict[str, float] = {}

    def reset(self) -> None:
        """Empty the caches and count from here."""
        self._get("/flush_cache", b"")
        self._at_reset = self._counters()

    def counted(self) -> Counted:
        """What it has counted."""
        before, now = self._at_reset, self._counters()
        counts = {name: int(now[name] - before.get(name, 0)) for name in now}
        evicted, loaded = (counts[name] for name in COUNTERS)
        prefetched = counts.get("prefetched_tokens", 0)
        return Counted(evicted, loaded - prefetched, prefetched, counts.get("lora_loads"))

    def tokenize(self, call: CallRecord) -> None:
        """Fill in the tokens of a call's prompt."""
        body: dict[str, Any] = {"messages": list(call.messages)}
        if call.tools:
            body["tools"] = call.tools
        answer = json.loads(self._get("/v1/tokenize", json.dumps(body).encode()))
        call.tokens = array("q", answer["tokens"])

    def server_info(self) -> dict[str, Any]:
        """The server's own account of its settings and sizes."""
        info: dict[str, Any] = json.loads(self._get("/server_info"))
        return info

    def _counters(self) -> dict[str, float]:
        totals = dict.fromkeys(COUNTERS, 0.0)
        for line in self._get("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            bare = name.partition("{")[0]
            if bare in totals:
                totals[bare] += float(value)
        return totals | self._status()

    def _status(self) -> dict[str, float]:
        try:
            ranks = json.loads(self._get("/kvflow/status"))["ranks"]
        except urllib.error.HTTPError:  # a stock server
            return {}
        return {name: float(ranks[0][name]) for name in STATUS_COUNTERS if name in ranks[0]}

    def _get(self, path: str, body: bytes | None = None) -> str:
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self._base_url + path, body, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())


def prompt_calls(ordered: Sequence[CallRecord]) -> list[PromptCall]:
    """The calls as the optimum sees them: an owner is whoever sends the same system prompt."""
    tokens = [call.tokens for call in ordered]
    owners = [f"{call.agent}\n{call.messages[0]['content']}" for call in ordered]
    last: dict[str, int] = {}
    shared = [0] * len(ordered)
    kept = [0] * len(ordered)
    for index, owner in enumerate(owners):
        if owner in last:
            shared[index] = common_prefix_tokens(tokens[last[owner]], tokens[index])
            kept[last[owner]] = shared[index]
        last[owner] = index
    return [
        PromptCall(
            owner=owners[index],
            total_tokens=len(tokens[index]) + call.answer_tokens,
            shared_tokens=min(shared[index], len(tokens[index]) - 1),
            kept_tokens=kept[index],
            was_found=shared[index] > 0 and 2 * call.cached_tokens >= shared[index],
            started_s=call.started_s,
            ended_s=call.ended_s,
        )
        for index, call in enumerate(ordered)
    ]
