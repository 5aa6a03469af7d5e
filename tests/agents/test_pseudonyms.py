"""Names that leave the process as keyed hashes only."""

from __future__ import annotations

import json

import openai
import pytest

from kvflow_agents import ConfigurationError, Forecast, Hint, report, reset_report
from kvflow_agents.carrier import Call, Carrier
from kvflow_agents.pseudonyms import NAME_KEY_VARIABLE, Pseudonyms, from_environment
from kvflow_agents.receipt_reader import WORKFLOW_PATH
from kvflow_agents.routers import WORKERS_VARIABLE
from tests.agents.fake_server import ANSWERS, FakeServer

KEY = "a key that nobody guesses"
NAMES = ("acme takeover", "lawyer", "auditor", "court case")
HINT = Hint(
    "acme takeover",
    Forecast(
        3,
        {"lawyer": 0, "auditor": None},
        due_ms={"lawyer": 7},
        chance={"auditor": 9},
        loras={"auditor": "style"},
    ),
    agent="lawyer",
    app="court case",
)


def test_every_name_of_a_hint_is_hidden_and_nothing_else() -> None:
    names = Pseudonyms(KEY.encode())
    hidden = names.hide(HINT)
    workflow, lawyer, auditor, app = map(names.of, NAMES)
    assert hidden == Hint(
        workflow,
        Forecast(
            3,
            {lawyer: 0, auditor: None},
            due_ms={lawyer: 7},
            chance={auditor: 9},
            loras={auditor: "style"},
        ),
        agent=lawyer,
        app=app,
    )
    assert len({workflow, lawyer, auditor, app}) == 4


def test_processes_with_one_key_tell_the_same_and_others_do_not() -> None:
    one, same, other = (Pseudonyms(key) for key in (b"1" * 16, b"1" * 16, b"2" * 16))
    assert one.of("writer") == same.of("writer") != other.of("writer")
    assert Pseudonyms(b"k" * 200).of("writer") != Pseudonyms(b"k" * 201).of("writer")
    assert Pseudonyms().hide(HINT) is HINT and Pseudonyms().of("writer") == "writer"


def test_names_that_no_hint_can_hold_are_hidden_too() -> None:
    names = Pseudonyms(KEY.encode())
    assert all(names.of(name).isalnum() for name in ("", "\ud800", "a/b\n", "作家"))


def test_a_key_that_could_be_guessed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME_KEY_VARIABLE, "secret")
    with pytest.raises(ConfigurationError, match="KVFLOW_NAME_KEY has 6 bytes, of at least 16"):
        Carrier(lambda: None, ["http://localhost"])
    monkeypatch.setenv(NAME_KEY_VARIABLE, "")
    assert from_environment().of("writer") == "writer"


class Case:
    """A workflow whose agents say all that a hint can hold."""

    def hint(self, agent: str) -> Hint:
        return HINT._replace(agent=agent)


def run_case(server: FakeServer, dialect: str) -> None:
    """One call, and the end of the workflow."""
    carrier = Carrier(lambda: Call(Case(), "lawyer"), [f"{dialect}+{server.base_url}"])
    carrier.install()
    try:
        with openai.OpenAI(base_url=server.base_url, api_key="key") as client:
            client.completions.create(model="m", prompt="hi")
    finally:
        carrier.uninstall()
    carrier.announce(Hint(HINT.workflow, Forecast(4, {}, done=True), app=HINT.app))
    assert carrier.courier.flush(10)


@pytest.mark.parametrize("dialect", ["kvflow", "kv_hints", "dynamo"])
@pytest.mark.parametrize("is_router", [False, True])
def test_no_name_leaves_the_process(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, dialect: str, is_router: bool
) -> None:
    if is_router:
        monkeypatch.setenv(WORKERS_VARIABLE, f"{server.root_url}={server.root_url}")
    said = {}
    for key in ("", KEY):
        monkeypatch.setenv(NAME_KEY_VARIABLE, key)
        server.requests.clear()
        run_case(server, dialect)
        said[key] = json.dumps([[each.headers, each.body] for each in server.requests])
    assert HINT.workflow in said[""]
    assert Pseudonyms(KEY.encode()).of(HINT.workflow) in said[KEY]
    assert not any(name in said[KEY] for name in NAMES)


def test_reports_show_the_names_and_find_the_receipts(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME_KEY_VARIABLE, KEY)
    names = Pseudonyms(KEY.encode())
    page = {"agents": [{"agent": names.of("lawyer"), "sums": {"calls": 2}}]}
    monkeypatch.setitem(ANSWERS, names.of(HINT.workflow), page)
    reset_report()
    run_case(server, "kvflow")
    lawyer = report(receipts=True)["lawyer"]
    assert lawyer.app == "court case" and lawyer.receipts == {"calls": 2}
    assert server.requests[-1].path == WORKFLOW_PATH + names.of(HINT.workflow)
