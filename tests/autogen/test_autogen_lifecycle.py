"""On, off, for one team only, and not at all where AutoGen is not what we know."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from autogen_agentchat.teams import RoundRobinGroupChat

import kvflow_autogen
from kvflow_agents import ConfigurationError
from kvflow_autogen import _internals, _patches
from kvflow_autogen._adapter import adapter
from tests.adapter_contract import sdk_methods
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI


def methods() -> list[object]:
    seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
    return [*(seam.owner.__dict__[seam.name] for seam in seams), *sdk_methods()]


def are_the_same(some: list[object], others: list[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


@pytest.fixture(autouse=True)
def wrapped_teams_are_gone() -> Iterator[None]:
    """They keep the adapter on as long as they live."""
    yield
    gc.collect()


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


def test_other_servers_need_an_uninstrument_first(instrumented: FakeOpenAI) -> None:
    kvflow_autogen.instrument()
    with pytest.raises(ConfigurationError, match="uninstrument"):
        kvflow_autogen.instrument(base_urls=["http://elsewhere:1/v1"])


def test_without_a_server_to_hint_nothing_is_turned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("KVFLOW_BASE_URLS", raising=False)
    before = methods()
    with pytest.raises(ConfigurationError, match="KVFLOW_BASE_URLS"):
        kvflow_autogen.instrument()
    assert are_the_same(methods(), before)


def newer(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(_internals, "version", lambda package: "0.8.0")
    return "autogen-agentchat 0.8.0 is newer than 0.7"


def other_signature(monkeypatch: pytest.MonkeyPatch) -> str:
    async def reset(self: Any, how: str) -> None: ...

    monkeypatch.setattr("autogen_agentchat.teams.BaseGroupChat.reset", reset)
    return "BaseGroupChat.reset takes ('how',), not ()"


def without_a_method(monkeypatch: pytest.MonkeyPatch) -> str:
    manager = _internals.find_seams().select.owner
    monkeypatch.delattr(manager, "_log_speaker_selection")
    monkeypatch.setattr(manager, "_transition_to_next_speakers", _stay)
    return "BaseGroupChatManager._log_speaker_selection is missing"


async def _stay(manager: Any, cancellation_token: Any) -> None:
    from autogen_agentchat.messages import StopMessage

    await manager._signal_termination(StopMessage(content="stop", source="manager"))


@pytest.mark.parametrize("change", [newer, other_signature, without_a_method])
async def test_an_unknown_autogen_is_left_alone_with_one_warning(
    change: Callable[[pytest.MonkeyPatch], str],
    model: teams.Client,
    server: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = sdk_methods()
    monkeypatch.setattr(adapter.patches, "_has_warned", False)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "kvflow_agents"):
        problem = change(patch)
        kvflow_autogen.instrument(base_urls=[server.base_url])
        kvflow_autogen.wrap(teams.single(model), base_urls=[server.base_url])
        await teams.round_robin(model).run(task="hi")
        assert are_the_same(sdk_methods(), before)
        kvflow_autogen.uninstrument()
    assert set(server.agents) <= {None}
    [record] = [record for record in caplog.records if record.name == "kvflow_agents"]
    assert record.getMessage() == f"kvflow does not know this AutoGen and is off: {problem}"


def in_a_new_process(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("missing", "line"),
    [("autogen_agentchat", "kvflow-agents[autogen]"), ("openai", "pip install openai")],
)
def test_a_missing_package_is_named_with_what_installs_it(missing: str, line: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import kvflow_autogen, kvflow_agents\n"
        "try:\n"
        "    kvflow_autogen.instrument(base_urls=['http://localhost:1/v1'])\n"
        "except kvflow_agents.ConfigurationError as error:\n"
        "    print(error)\n"
    )
    assert line in in_a_new_process(code)
