"""Requests whose answer is known: sent, judged, and sent again while the server is dead."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from kvflow_agents.errors import KVFlowError
from kvflow_agents.hints import Hint, encode_body, encode_request
from kvflow_agents.servers import Server
from kvflow_faults.traffic import ANSWER_TOKENS, Call, prompts
from kvflow_faults.victim import Victim

TIMEOUT = aiohttp.ClientTimeout(total=120)
COMPLETIONS = "/v1/completions"
LEARNED_AT_ONCE = 4
MOST_SAMPLES = 20
RETRY_S = 0.2


class VictimDiedError(KVFlowError):
    """The server ended, and nobody had killed it."""


@dataclass(slots=True)
class Tally:
    """What became of requests."""

    answered: int = 0
    wrong: int = 0
    lost: int = 0
    """Failed although the server was not dead."""
    outage: int = 0
    """Failed with the server dead, and made again."""
    latencies_s: list[float] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    """Of what went wrong, the first few."""

    def note(self, what: str) -> None:
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append(what[:300])


def body_of(
    prompt: str,
    hint: Hint | None,
    salt: str | None = None,
    *,
    tokens: int = ANSWER_TOKENS,
    stream: bool = False,
) -> dict[str, Any]:
    """A greedy completion of a fixed length."""
    body = {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
        "cache_salt": salt,
    }
    return body if hint is None else {**body, "custom_params": encode_request(hint)}


async def learn(base_url: str) -> dict[str, str]:
    """What a server answers to every prompt of the traffic, a few at a time."""
    few = aiohttp.TCPConnector(limit=LEARNED_AT_ONCE)
    async with aiohttp.ClientSession(base_url, timeout=TIMEOUT, connector=few) as session:
        asked = [_complete(session, body_of(prompt, None)) for prompt in prompts()]
        return dict(zip(prompts(), await asyncio.gather(*asked), strict=True))


class Questioner:
    """Sends the traffic's requests to the victim and judges the answers."""

    def __init__(self, victim: Victim, known: Mapping[str, str]) -> None:
        self._victim = victim
        self._known = known
        self.tally = Tally()
        # The server closes a connection that has rested for 5 s; a request must not cross that.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        self.session = aiohttp.ClientSession(victim.base_url, timeout=TIMEOUT, connector=connector)

    async def ask(self, call: Call) -> None:
        """Send a request until it is answered; its failures are an outage's or losses.

        Nobody waits for a server that starts: it starts under load. VictimDiedError if there will
        be no answer.
        """
        was_dead = False
        while True:
            began = time.monotonic()
            try:
                text = await _complete(self.session, body_of(call.prompt, call.hint, call.salt))
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                if self._victim.was_dead(began, time.monotonic()):
                    was_dead = True
                else:
                    self.tally.lost += 1
                    self.tally.note(f"lost: {error!r}")
                if self._victim.has_died:
                    raise VictimDiedError("the server has ended of itself") from error
                await asyncio.sleep(RETRY_S)
                continue
            self.tally.outage += was_dead
            self.tally.latencies_s.append(time.monotonic() - began)
            self.judge(call.prompt, text)
            return

    def judge(self, prompt: str, text: str) -> None:
        """Compare an answer with the known one."""
        self.tally.answered += 1
        if text != self._known[prompt]:
            self.tally.wrong += 1
            self.tally.note(f"wrong: {text!r} instead of {self._known[prompt]!r}")

    async def tell(self, hint: Hint, salt: str | None) -> None:
        """Post a forecast; as with every hint, it does not matter if it is lost."""
        headers = Server(self._victim.base_url, cache_salt=salt).headers()
        body = encode_body(hint)
        try:
            async with self.session.post("/kvflow/forecast", json=body, headers=headers) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass

    async def status(self) -> dict[str, int]:
        """What the scheduler counts; nothing if it is a stock one, or does not answer."""
        try:
            async with self.session.get("/kvflow/status") as answer:
                if answer.status != 200:
                    return {}
                counts: dict[str, int] = json.loads(await answer.text())["ranks"][0]
                return counts
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return {}


async def _complete(session: aiohttp.ClientSession, body: Mapping[str, Any]) -> str:
    async with session.post(COMPLETIONS, json=body) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {text}")
        choice = json.loads(text)["choices"][0]
        if choice["finish_reason"] != "length":
            raise ValueError(f"ended by {choice['finish_reason']}")
        return str(choice["text"])
