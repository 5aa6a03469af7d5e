from __future__ import annotations

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_sglang.settings import VARIABLE, Settings, from_environment


def read(text: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(VARIABLE, text)
    return from_environment()


def test_without_the_variable_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert from_environment() == Settings(expected_share=0.75, lifetime_pools=4.0)
    assert read("", monkeypatch) == read("{}", monkeypatch) == Settings()


def test_what_is_given_replaces_its_default_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read('{"expected_share": 0.5}', monkeypatch) == Settings(expected_share=0.5)
    assert read('{"lifetime_pools": 8}', monkeypatch) == Settings(lifetime_pools=8)


@pytest.mark.parametrize("share", [0, 1, 0.0, 1.0])
def test_the_ends_of_a_range_belong_to_it(share: float) -> None:
    assert Settings(expected_share=share).expected_share == share


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "KVFLOW_CONFIG is not JSON"),
        ("[0.5]", "KVFLOW_CONFIG must be a JSON object"),
        ("null", "KVFLOW_CONFIG must be a JSON object"),
        ('{"expected_shares": 0.5}', r"unknown \['expected_shares'\]; known are .*expected_share"),
        ('{"expected_share": 1.01}', r"expected_share must be a number in \[0.0, 1.0\], not 1.01"),
        ('{"expected_share": -0.1}', r"expected_share must be a number .* not -0.1"),
        ('{"expected_share": "0.5"}', "expected_share must be a number .* not '0.5'"),
        ('{"expected_share": true}', "expected_share must be a number .* not True"),
        ('{"expected_share": null}', "expected_share must be a number .* not None"),
        ('{"lifetime_pools": NaN}', "lifetime_pools must be a number .* not nan"),
        (
            '{"least_priority": 1, "most_priority": 0}',
            "least_priority is 1, above most_priority, 0",
        ),
        ('{"most_priority": 2147483648}', "most_priority must be an integer"),
        ('{"common_agents": 0}', "common_agents must be an integer"),
        ('{"infer": 1}', "infer must be true or false, not 1"),
        ('{"lifetime_pools": Infinity}', "lifetime_pools must be a number .* not inf"),
    ],
)
def test_what_is_wrong_is_named(text: str, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read(text, monkeypatch)
