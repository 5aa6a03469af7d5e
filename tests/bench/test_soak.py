"""The soak's judgement of a server that is none: one that leaks is found out."""

from __future__ import annotations

import os
from typing import cast

import pytest
from aiohttp import web

from kvflow_faults import faults, suite
from kvflow_faults.instruments import TABLE
from kvflow_faults.traffic import prompts
from kvflow_faults.victim import Victim
from tests.web_server import WebServer

ANSWER = "abcd"


class Imitation:
    """Answers as a server and a `Victim` would; a table grows with each forecast if it `leaks`."""

    is_stock = False
    has_died = False
    lives = 1

    def __init__(self, *, leaks: bool) -> None:
        self._leaks = leaks
        self._forecasts = 0
        self.base_url = ""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/kvflow/forecast", self._forecast)
        app.router.add_get("/kvflow/status", self._status)
        app.router.add_post("/flush_cache", self._flush)
        return app

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        choice = {"text": ANSWER, "finish_reason": "length"}
        if not body["stream"]:
            return web.json_response({"choices": [choice]})
        return web.Response(text=f'data: {{"choices": [{{"text": "{ANSWER}"}}]}}\n\n')

    async def _forecast(self, request: web.Request) -> web.Response:
        self._forecasts += self._leaks
        return web.Response()

    async def _flush(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"ranks": [{f"{TABLE}T.names": self._forecasts, "agents": 1}]})

    async def live(self) -> None: ...

    def switch(self, **switches: object) -> None: ...

    def processes(self) -> set[int]:
        return {os.getpid()}

    def resident_bytes(self) -> dict[str, int]:
        return {"scheduler": 1 << 30}


async def soaked(monkeypatch: pytest.MonkeyPatch, *, leaks: bool) -> list[str]:
    monkeypatch.setattr(faults, "FILLING_FORECASTS", 20)
    monkeypatch.setattr(suite, "SAMPLE_S", 0.1)
    imitation = Imitation(leaks=leaks)
    known = dict.fromkeys(prompts(), ANSWER)
    async with WebServer(imitation.app()) as server:
        imitation.base_url = server.root_url
        stage = await suite.soak(cast(Victim, imitation), known, seconds=3.0, seed=1)
    assert stage.answered and stage.injected["flooding forecast"] >= 20
    return list(stage.harms())


async def test_a_server_in_which_nothing_grows_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await soaked(monkeypatch, leaks=False) == []


async def test_a_table_that_keeps_something_of_each_forecast_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (harm,) = await soaked(monkeypatch, leaks=True)
    assert harm.startswith("T.names grew from ")
