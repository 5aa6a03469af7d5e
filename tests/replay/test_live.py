"""A trace against a server that speaks SGLang's `/generate`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from kvflow_agents.prefix import Tokens
from kvflow_replay.answers import rows
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.live import prompt_of, replay_live
from tests.web_server import WebServer

BLOCK = 16
# Times of the trace pass at once.
FAST = 1e6


class FakeSGLang:
    """Answers everything but prompts that are longer than it takes."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.forecasts: list[dict[str, Any]] = []
        self.most_tokens = 1000
        self.answer_s = 0.0
        self.at_work = self.most_at_work = 0
        self.base_url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeSGLang]:
        app = web.Application()
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/kvflow/forecast", self._forecast)
        async with WebServer(app) as server:
            self.base_url = server.root_url
            yield self

    async def _forecast(self, request: web.Request) -> web.Response:
        self.forecasts.append(await request.json())
        return web.json_response({})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt = body["input_ids"]
        if len(prompt) > self.most_tokens:
            return web.json_response({"error": "too long"}, status=400)
        self.requests.append(body)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        await asyncio.sleep(self.answer_s)
        self.at_work -= 1
        output = list(range(body["sampling_params"]["max_new_tokens"]))
        meta = {
            "prompt_tokens": len(prompt),
            "cached_tokens": len(prompt) // 2,
            "completion_tokens": len(output),
        }
        event = json.dumps({"output_ids": output, "meta_info": meta})
        return web.Response(text=f"data: {event}\n\ndata: [DONE]\n\n")


def call(at_s: float, tokens: int, blocks: list[int], agent: str | None = "a") -> Call:
    workflow = None if agent is None else "w"
    return Call(at_s, tokens, 3, Tokens("q", blocks), workflow, agent)


TRACE: list[Event] = [
    call(0, 40, [1, 2, 3]),
    call(1, 48, [1, 2, 4], agent="b"),
    call(2, 33, [1, 2, 3], agent=None),
    call(3, 10_000, [*range(625)]),
    End(4, "w"),
]


def test_prompts_begin_alike_where_those_of_the_trace_did() -> None:
    one, other = (prompt_of(each, BLOCK) for each in TRACE[:2] if isinstance(each, Call))
    assert (len(one), len(other)) == (40, 48)
    assert one[:32] == other[:32] and one[32:] != other[32:40]


async def test_calls_are_made_with_hints_and_what_fails_is_counted() -> None:
    async with FakeSGLang().running() as server:
        done = await replay_live(TRACE, server.base_url, BLOCK, speed=FAST)
    assert (done.calls, done.hinted, done.failed) == (4, 3, 1)
    assert "too long" in done.errors[0]
    params = [each["sampling_params"] for each in server.requests]
    agents = [
        each["custom_params"]["kvflow"]["agent"] for each in params if "custom_params" in each
    ]
    assert sorted(agents) == ["a", "b"]
    assert all(each["max_new_tokens"] == 3 for each in params)
    assert len(server.forecasts) == 1
    table = {row.name: row for row in rows(done)}
    assert table["all"].prompt_tokens == 40 + 48 + 33
    assert table["all"].cached_tokens == 20 + 24 + 16
    assert table["(no agent)"].calls == 1


async def test_without_hints_the_server_hears_of_no_agent() -> None:
    async with FakeSGLang().running() as server:
        done = await replay_live(TRACE[:3], server.base_url, BLOCK, is_hinted=False, speed=FAST)
    assert done.hinted == 0 and not server.forecasts
    assert not any("custom_params" in each["sampling_params"] for each in server.requests)


async def test_calls_are_made_when_the_trace_says(monkeypatch: Any) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        slept.append(delay_s)
        await sleep(0)

    async with FakeSGLang().running() as server:
        monkeypatch.setattr(asyncio, "sleep", note)
        await replay_live(TRACE[:2], server.base_url, BLOCK, speed=0.1)
        monkeypatch.undo()
    # Others sleep for no time at all, to let tasks run.
    assert slept[0] == 0 and 5 < slept[1] <= 10 and not any(slept[2:])


async def test_a_server_that_is_gone_fails_calls_and_not_the_replay() -> None:
    done = await replay_live(TRACE[:2], "http://127.0.0.1:9", BLOCK, speed=FAST)
    assert done.failed == 2 and not rows(done)


async def test_a_turn_waits_for_the_answer_that_its_delay_counts_from() -> None:
    turns: list[Event] = [
        Call(0, 40, 3, Tokens("q", [1, 2, 3]), "w"),
        Call(0.5, 48, 3, Tokens("q", [1, 2, 3]), "w", delay_s=0.5),
        Call(1.0, 48, 3, Tokens("q", [1, 2, 3]), "w", delay_s=0.5),
    ]
    async with FakeSGLang().running() as server:
        server.answer_s = 0.02
        done = await replay_live(turns, server.base_url, BLOCK, speed=FAST)
    assert (done.calls, done.failed) == (3, 0)
    assert server.most_at_work == 1


async def test_calls_with_times_of_their_own_wait_for_nothing() -> None:
    async with FakeSGLang().running() as server:
        server.answer_s = 0.05
        await replay_live(TRACE[:3], server.base_url, BLOCK, speed=FAST)
    assert server.most_at_work == 3
