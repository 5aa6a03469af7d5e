"""Simulations against a server: who calls, what is posted, and what can go wrong meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from kvflow_agents.courier import FORECAST_PATH, Courier
from kvflow_agents.distance import ActionTime
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.hints import Hint, decode_body, decode_request
from kvflow_agents.servers import BASE_URLS_VARIABLE
from kvflow_agents.simulation import Simulation
from tests.agents.fake_server import FakeServer


class Scene:
    """A server, an SDK client of it, and a simulation that it may be told of."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.courier = Courier()
        self.sdk = openai.OpenAI(base_url=server.base_url, api_key="key", max_retries=0)
        self.simulation = Simulation(
            "town", base_urls=[server.base_url], app="a town", courier=self.courier
        )

    def call(self, agent: str) -> None:
        with self.simulation.agent(agent):
            self.speak()

    def speak(self) -> None:
        messages: Any = [{"role": "user", "content": "hello"}]
        self.sdk.chat.completions.create(model="m", messages=messages)

    def calls(self) -> list[Hint | None]:
        return [
            decode_request(request.params)
            for request in self.server.requests
            if request.path.endswith("/chat/completions")
        ]

    def posts(self) -> list[Hint]:
        """What was posted since the last look."""
        assert self.courier.flush(10)
        posts = [each for each in self.server.requests if each.path == FORECAST_PATH]
        self.server.requests[:] = [each for each in self.server.requests if each not in posts]
        return [decode_body(each.body) for each in posts]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with FakeServer() as server:
        scene = Scene(server)
        with scene.simulation:
            yield scene
        assert scene.courier.flush(30)
        assert scene.simulation.failsafe.errors == 0
        scene.sdk.close()


def test_a_call_says_who_makes_it_and_nothing_of_the_others(scene: Scene) -> None:
    scene.simulation.tick({"ann": 0.0, "bob": 5.0})
    scene.call("ann")
    (hint,) = scene.calls()
    assert hint is not None
    assert (hint.workflow, hint.agent) == ("town", "ann")
    assert (hint.forecast.steps, hint.forecast.changes) == ({"ann": 0}, True)


def test_calls_outside_of_an_agents_turn_are_nobodys(scene: Scene) -> None:
    scene.speak()
    with scene.simulation.agent("ann"), scene.simulation.agent("bob"):
        pass
    scene.speak()
    other = Simulation(base_urls=[scene.server.base_url], courier=scene.courier)
    with other.agent("ann"):
        scene.speak()
    assert scene.calls() == [None, None, None]


def test_a_server_is_told_everything_once_it_is_known_and_then_what_changes(scene: Scene) -> None:
    agents: dict[str, float | None] = {f"agent {number}": 12.0 for number in range(10_000)}
    scene.simulation.tick(agents)
    assert scene.posts() == []
    scene.call("agent 5")
    agents["agent 5"] = 40.0
    scene.simulation.tick(agents)
    first = scene.posts()
    assert [len(each.forecast.steps) for each in first] == [4096, 4096, 1808]
    told = {agent: steps for each in first for agent, steps in each.forecast.steps.items()}
    assert told == {agent: 12 for agent in agents} | {"agent 5": 32}
    del agents["agent 9999"]
    agents["agent 6"] = 2.0
    scene.simulation.tick(agents)
    (second,) = scene.posts()
    assert second.forecast.changes
    assert second.forecast.seq > max(each.forecast.seq for each in first)
    assert {"agent 6": 2, "agent 9999": None}.items() <= second.forecast.steps.items()
    assert len(second.forecast.steps) < 200


def test_the_end_of_the_simulation_is_told(scene: Scene) -> None:
    scene.call("ann")
    with scene.simulation:
        pass
    (hint,) = scene.posts()
    assert hint.forecast.done
    scene.call("ann")
    assert scene.calls()[-1] is None


def test_every_thread_and_every_task_has_its_own_agent(scene: Scene) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(scene.call, [f"agent {number}" for number in range(40)]))

    async def call(client: openai.AsyncOpenAI, agent: str) -> None:
        with scene.simulation.agent(agent):
            await asyncio.sleep(0)
            messages: Any = [{"role": "user", "content": "hello"}]
            await client.chat.completions.create(model="m", messages=messages)

    async def all_of_them() -> None:
        async with openai.AsyncOpenAI(base_url=scene.server.base_url, api_key="key") as client:
            await asyncio.gather(*(call(client, f"task {number}") for number in range(8)))

    asyncio.run(all_of_them())
    hints = scene.calls()
    expected = {f"agent {number}" for number in range(40)} | {f"task {n}" for n in range(8)}
    assert {hint.agent for hint in hints if hint} == expected
    assert len({hint.forecast.seq for hint in hints if hint}) == len(hints) == 48


def test_distances_come_from_a_provider(scene: Scene) -> None:
    remaining = {"ann": 3.0, "bob": math.nan}
    scene.call("ann")
    scene.simulation.tick_with(ActionTime(remaining), ["ann", "bob", "gone"])
    (hint,) = scene.posts()
    assert hint.forecast.steps == {"ann": 2}


def test_names_are_made_fit_for_a_hint(scene: Scene) -> None:
    scene.call("north/ann\n")
    scene.simulation.tick({"north/ann\n": 1.0})
    (call,), (post,) = scene.calls(), scene.posts()
    assert call is not None
    assert call.agent == "north/ann_"
    assert post.forecast.steps == {"north/ann_": 1}


def test_a_simulation_without_agents_runs(scene: Scene) -> None:
    scene.simulation.tick({})
    scene.call("ann")
    scene.simulation.tick({})
    (hint,) = scene.posts()
    assert hint.forecast.steps == {"ann": None}


@pytest.mark.parametrize("bad", [None, [1, 2], {"a": "soon"}])
def test_nothing_raises_into_the_simulations_loop(bad: Any) -> None:
    with FakeServer() as server:
        simulation = Simulation(base_urls=[server.base_url])
        with simulation:
            simulation.tick(bad)
            simulation.tick_with(ActionTime({}), bad)
        assert simulation.failsafe.errors > 0
        simulation.tick({"a": 1.0})


def test_a_server_that_does_not_answer_holds_nothing_up(scene: Scene) -> None:
    scene.call("ann")
    scene.server.is_open.clear()
    for tick in range(1000):
        scene.simulation.tick({"ann": float(tick % 7)})
    scene.server.is_open.set()
    assert scene.courier.flush(30)
    assert scene.courier.undelivered > 0


def test_a_closed_generator_leaves_no_error_behind(scene: Scene) -> None:
    async def turns() -> Any:
        with scene.simulation.agent("ann"):
            yield 1

    async def step(generator: Any) -> None:
        await anext(generator)

    async def main() -> None:
        generator = turns()
        await asyncio.create_task(step(generator))
        await asyncio.create_task(generator.aclose())

    asyncio.run(main())


@pytest.mark.parametrize("base_urls", [None, [], "http://localhost:1", ["localhost"]])
def test_bad_configuration_is_refused_at_once(
    base_urls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (BASE_URLS_VARIABLE, "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigurationError):
        Simulation(base_urls=base_urls)


def test_adapters_are_told_with_the_agents_that_call_with_them() -> None:
    with FakeServer() as server:
        scene = Scene(server)
        loras = {"ann": "a0", "bob": "a1", "cid": "a2", "eve": "no\nname", "team/ann": "a3"}
        scene.simulation = Simulation(
            "town", base_urls=[server.base_url], courier=scene.courier, loras=loras
        )
        with scene.simulation:
            scene.call("ann")
            scene.simulation.tick({"ann": 1.0, "bob": 5.0, "dan": 2.0, "eve": 3.0, "team/ann": 4.0})
            [call] = scene.calls()
            assert call is not None
            assert call.forecast.loras == {"ann": "a0"}
            [post] = scene.posts()
            assert post.forecast.loras == {"ann": "a0", "bob": "a1", "team/ann": "a3"}
            # Only with those who are told of.
            scene.simulation.tick({"ann": 1.0, "bob": 3.0, "dan": 2.0, "eve": 3.0, "team/ann": 4.0})
            [post] = scene.posts()
            assert post.forecast.steps == {"ann": 1, "bob": 3}
            assert post.forecast.loras == {"ann": "a0", "bob": "a1"}
        scene.sdk.close()


def test_a_tick_takes_any_name_that_a_turn_takes(scene: Scene) -> None:
    scene.call("a")
    scene.posts()
    scene.simulation.tick({0: 3.0})  # type: ignore[dict-item]
    assert scene.posts()[-1].forecast.steps["0"] == 3
    assert scene.simulation.failsafe.errors == 0


def test_generators_that_take_turns_leave_nobody_at_work(scene: Scene) -> None:
    def work(name: str) -> Iterator[None]:
        with scene.simulation.agent(name):
            scene.speak()
            yield

    for _ in zip(work("a"), work("b"), strict=True):
        pass
    scene.speak()
    assert [call.agent if call else None for call in scene.calls()] == ["a", "b", None]
