"""Clients that no server wishes for: each does it once, and says whether it could."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import urlsplit

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_body
from kvflow_faults.answers import COMPLETIONS, Questioner, body_of
from kvflow_faults.traffic import Call
from kvflow_faults.victim import Victim

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LONG_TOKENS = 64
STRANGE_TOKENS = 180
SLOW_S = 0.02
PIECES = 8
FORECAST = "/kvflow/forecast"
FLOOD_AGENTS = 1000
MALFORMED = (b"{", b"[]", b'{"v": 1}', b'{"v": 1, "workflow": "x", "seq": -1}', b"\xff" * 100)


async def hang_up(victim: Victim, call: Call, random: Random) -> None:
    """Ask for a long answer and go away: before it is asked, before it comes, or at once."""
    request = _post(COMPLETIONS, body_of(call.prompt, call.hint, call.salt, tokens=LONG_TOKENS))
    async with _connected(victim) as (_, writer):
        writer.write(request[: random.choice([len(request) // 2, len(request)])])
        await writer.drain()
        await asyncio.sleep(random.random() * 0.2)


async def abort_stream(victim: Victim, call: Call, random: Random) -> None:
    """Ask for a long stream and leave after some of it."""
    body = body_of(call.prompt, call.hint, call.salt, tokens=LONG_TOKENS, stream=True)
    async with _connected(victim) as (reader, writer):
        writer.write(_post(COMPLETIONS, body))
        await writer.drain()
        for _ in range(random.randrange(1, 20)):
            await reader.readline()


async def be_slow(victim: Victim, call: Call, questioner: Questioner) -> None:
    """Send a request in pieces and read its stream in crumbs; its answer is judged."""
    request = _post(COMPLETIONS, body_of(call.prompt, call.hint, call.salt, stream=True))
    async with _connected(victim) as (reader, writer):
        size = len(request) // PIECES + 1
        for start in range(0, len(request), size):
            writer.write(request[start : start + size])
            await writer.drain()
            await asyncio.sleep(SLOW_S)
        answer = b""
        while crumb := await reader.read(64):
            answer += crumb
            await asyncio.sleep(SLOW_S / 4)
    questioner.judge(call.prompt, _text_of(answer))


async def be_strange(victim: Victim, random: Random) -> None:
    """Ask, without a hint, what nobody has asked before or will again."""
    prompt = f"{random.randrange(10**9):09d}" * (STRANGE_TOKENS // 9)
    async with _connected(victim) as (reader, writer):
        writer.write(_post(COMPLETIONS, body_of(prompt, None)))
        await writer.drain()
        await reader.read()


async def flood(victim: Victim, random: Random) -> None:
    """A forecast of a workflow that nobody runs, with as many agents as fit, or a broken one."""
    name = f"flood-{random.randrange(100_000)}"
    steps = {f"agent{random.randrange(10**6)}": random.randrange(100) for _ in range(FLOOD_AGENTS)}
    hint = Hint(name, Forecast(random.randrange(2**62), steps, changes=random.random() < 0.5))
    broken = random.choice(MALFORMED)
    body = broken if random.random() < 0.2 else json.dumps(encode_body(hint)).encode()
    async with _connected(victim) as (reader, writer):
        writer.write(_post_bytes(FORECAST, body))
        await writer.drain()
        await reader.read()


async def flush(victim: Victim) -> bool:
    """Ask for an empty cache, now; whether it was emptied, which a busy server refuses."""
    async with _connected(victim) as (reader, writer):
        writer.write(_post_bytes("/flush_cache", b""))
        await writer.drain()
        return (await reader.readline()).split()[1:2] == [b"200"]


@asynccontextmanager
async def _connected(victim: Victim) -> AsyncIterator[Connection]:
    where = urlsplit(victim.base_url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def _post(path: str, body: object) -> bytes:
    return _post_bytes(path, json.dumps(body).encode())


def _post_bytes(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: victim\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _text_of(answer: bytes) -> str:
    """The text of a stream of completions, as it came over the wire."""
    lines = [line.strip() for line in answer.split(b"\n")]
    events = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: {")]
    return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])
