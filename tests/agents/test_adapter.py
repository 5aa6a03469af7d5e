"""Who wants runs hinted, for how long, and what is left when nobody does any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.runs import Caller
from kvflow_agents.sdk import sdk
from tests.adapter_contract import sdk_methods

HERE, ELSEWHERE = ["http://localhost:1/v1"], ["http://localhost:2/v1"]


class Framework:
    """An adapter of one that only counts."""

    is_on = False

    def turn_on(self) -> bool:
        self.is_on = True
        return True

    def turn_off(self) -> None:
        self.is_on = False

    def caller(self) -> Caller | None:
        return None


class Team:
    """An application."""


@pytest.fixture
def framework() -> Iterator[Framework]:
    before = sdk_methods()
    yield Framework()
    assert all(now is then for now, then in zip(sdk_methods(), before, strict=True))


def test_an_application_that_is_wrapped_again_and_again_is_wrapped_once(
    framework: Framework,
) -> None:
    subscriptions, team = Subscriptions(framework), Team()
    for _ in range(3):
        subscriptions.subscribe_for(team, HERE)
    [carrier] = subscriptions.carriers(team)
    assert sdk._passengers == (carrier,)
    subscriptions.unsubscribe(carrier)


def test_an_application_that_is_wrapped_for_others_is_hinted_to_those(
    framework: Framework,
) -> None:
    subscriptions, team = Subscriptions(framework), Team()
    for urls in (HERE, ELSEWHERE):
        subscriptions.subscribe_for(team, urls)
    [carrier] = subscriptions.carriers(team)
    assert carrier._servers.allows(ELSEWHERE[0]) and not carrier._servers.allows(HERE[0])
    assert sdk._passengers == (carrier,)
    del team
    gc.collect()
    subscriptions.close_collected()
    assert not sdk._passengers and not framework.is_on


def test_a_finalizer_only_leaves_a_note(framework: Framework) -> None:
    subscriptions, team = Subscriptions(framework), Team()
    subscriptions.subscribe_for(team, HERE)
    passengers = sdk._passengers
    del team
    gc.collect()
    assert sdk._passengers == passengers and framework.is_on
    assert subscriptions.carriers(None) == []  # the next run of any application
    assert not sdk._passengers and not framework.is_on
