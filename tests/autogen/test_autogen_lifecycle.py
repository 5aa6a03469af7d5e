"""On, off, for one team only, and not at all where AutoGen is not what we know."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from autogen_agentchat.teams import RoundRobinGroupChat

import kvflow_autogen
from kvflow_agents import ConfigurationError
from kvflow_autogen import _internals
from kvflow_autogen._adapter import adapter
from tests.adapter_contract import sdk_methods
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI


def methods() -> list[object]:
    seams = [seam for seam, _ in adapter.patches._find()]
    return [*(seam.owner.__dict__[seam.name] for seam in seams), *sdk_methods()]


def are_the_same(some: list[object], others: list[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


@pytest.fixture(autouse=True)
def wrapped_teams_are_gone() -> Iterator[None]:
    """They keep the adapter on as long as they live."""
    yield
    gc.collect()
    adapter.subscriptions.close_collected()


async def test_a_wrapped_team_is_itself_and_alone_hinted(
    model: teams.Client, server: FakeOpenAI
) -> None:
    team, other = teams.round_robin(model), teams.round_robin(model)
    before = dict(vars(team))
    assert kvflow_autogen.wrap(team, base_urls=[server.base_url]) is team
    assert vars(team) == before
    await other.run(task="hi")
    assert server.agents == [None] * 6
    server.clear()
    await team.run(task="hi")
    assert server.agents == ["a", "b", "c"] * 2


@pytest.mark.parametrize("build", [teams.single, teams.nested, teams.society])
async def test_every_kind_of_team_can_be_wrapped(
    build: Callable[[teams.Client], Any], model: teams.Client, server: FakeOpenAI
) -> None:
    await kvflow_autogen.wrap(build(model), base_urls=[server.base_url]).run(task="hi")
    assert server.agents and None not in server.agents


async def test_a_wrapped_team_inside_a_plain_one_is_hinted_alone(
    model: teams.Client, server: FakeOpenAI
) -> None:
    inner = RoundRobinGroupChat(teams.agents(model, "a", "b"), max_turns=2)
    kvflow_autogen.wrap(inner, base_urls=[server.base_url])
    await RoundRobinGroupChat([inner, teams.agent(model, "last")], max_turns=2).run(task="hi")
    assert server.agents == ["a", "b", None]


async def test_a_wrapped_team_that_is_gone_leaves_nothing_behind(
    model: teams.Client, server: FakeOpenAI
) -> None:
    before = methods()
    team = kvflow_autogen.wrap(teams.round_robin(model), base_urls=[server.base_url])
    await team.run(task="hi")
    assert not are_the_same(methods(), before)
    del team
    gc.collect()
    adapter.subscriptions.close_collected()
    assert are_the_same(methods(), before)


async def test_a_dumped_team_is_what_it_was_and_the_loaded_one_is_hinted(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    kvflow_autogen.uninstrument()
    plain = teams.round_robin(model).dump_component()
    kvflow_autogen.instrument(base_urls=[instrumented.base_url])
    team = kvflow_autogen.wrap(teams.round_robin(model), base_urls=[instrumented.base_url])
    await team.run(task="hi")
    dumped = team.dump_component()
    assert dumped == plain
    for participant in dumped.config["participants"]:
        participant["config"]["model_client"]["config"]["api_key"] = "key"
    instrumented.clear()
    loaded = RoundRobinGroupChat.load_component(dumped)
    await loaded.run(task="hi")
    assert instrumented.agents == ["a", "b", "c"] * 2
    for participant in loaded._participants:
        await participant._model_client.close()  # type: ignore[union-attr]


async def test_a_saved_state_goes_on_in_another_team(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    team = teams.round_robin(model)
    await team.run(task="hi")
    state = await team.save_state()
    other = teams.round_robin(model)
    await other.load_state(state)
    instrumented.clear()
    await other.run(task="go on")
    assert instrumented.agents == ["a", "b", "c"] * 2


def test_only_teams_and_agents_can_be_wrapped(server: FakeOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_autogen.wrap("team", base_urls=[server.base_url])


async def test_a_newer_autogen_is_left_alone_with_one_warning(
    model: teams.Client,
    server: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(adapter.patches, "_has_warned", False)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "kvflow_agents"):
        patch.setattr(_internals, "version", lambda package: "0.8.0")
        kvflow_autogen.instrument(base_urls=[server.base_url])
        kvflow_autogen.wrap(teams.single(model), base_urls=[server.base_url])
        await teams.round_robin(model).run(task="hi")
        kvflow_autogen.uninstrument()
    assert set(server.agents) == {None}
    [record] = [record for record in caplog.records if record.name == "kvflow_agents"]
    assert record.getMessage() == (
        "kvflow does not know this AutoGen and is off: autogen-agentchat 0.8.0 is newer than 0.7"
    )
