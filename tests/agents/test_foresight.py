"""What a server makes of hints and prompts: whose prefix is protected, how long, and when not."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvflow_agents.app_prompts import Namespace
from kvflow_agents.eviction import Standing
from kvflow_agents.forecast import Forecast
from kvflow_agents.foresight import Heard
from kvflow_agents.hints import Hint
from kvflow_agents.workflow_memory import Limits
from tests.agents.foresight_server import (
    LIFETIME,
    ORDINARY,
    SPENT,
    Server,
    expected,
    run_of_app,
    tokens,
)
from tests.agents.radix_tree import NOWHERE, Path


def test_a_forecast_protects_a_prefix_that_was_seen() -> None:
    server = Server()
    assert server.hear("w", 0, {"writer": 2}) == "accepted"
    server.call("w", "writer", "You write. Do A", " done")
    assert server.standing("You write. Do A") == expected(2)
    assert server.standing("You write. Do A done") == SPENT
    server.hear("w", 1, {"writer": 0})
    assert server.standing("You write. Do A") == expected(0)
    server.call("w", "writer", "You write. Do B", " done")
    assert server.standing("You write. Do ") == expected(0)
    assert server.standing("You write. Do A") == SPENT
    assert server.standing("You write. Do B") == SPENT


def test_a_prefix_is_protected_to_the_token_even_if_its_last_call_was_evicted() -> None:
    server = Server()
    server.hear("w", 0, {"writer": 2})
    server.call("w", "writer", "You write. Do A")
    for leaf in server.tree.leaves():
        server.tree.remove(leaf)
    server.call("w", "writer", "You write. Do B")
    assert server.standing("You write. Do ") == expected(2)
    assert server.standing("You write. Do B") == SPENT


@pytest.mark.parametrize("told", ["prompt_cached", "answer_cached"])
def test_a_workflow_uses_what_it_finds_as_well_as_what_it_brings(told: str) -> None:
    server = Server()
    server.call("one", None, "Shared")
    assert server.standing("Shared") == SPENT
    leaf = server.tree.grow(Path(tokens("Shared")), "two")
    caller = Hint("two", Forecast(0))
    getattr(server.foresight, told)(caller, tokens("Shared"), NOWHERE, leaf)
    assert server.standing("Shared") == ORDINARY


def test_a_growing_history_is_protected_answers_included() -> None:
    server = Server()
    server.hear("w", 0, {"a": 1})
    server.call("w", "a", "Hello", " you")
    server.call("w", "a", "Hello you, again", " yes")
    assert server.standing("Hello you, again yes") == expected(1)


def test_an_agent_no_longer_expected_is_ordinary_and_so_is_one_unheard_of() -> None:
    server = Server()
    server.hear("w", 0, {"a": 1, "b": 1})
    server.call("w", "a", "AAAA")
    server.call("w", "b", "BBBB")
    server.call("w", "c", "CCCC")
    assert server.hear("w", 1, {"a": None}) == "accepted"
    assert {server.standing(text) for text in ("AAAA", "BBBB", "CCCC")} == {ORDINARY}


@pytest.mark.parametrize("seq", [0, 4, 5])
def test_forecasts_repeated_or_out_of_order_change_nothing(seq: int) -> None:
    server = Server()
    server.hear("w", 5, {"a": 1})
    server.call("w", "a", "AAAA")
    assert server.hear("w", seq, {"a": 9}) == "stale"
    assert server.hear("w", seq, done=True) == "stale"
    assert server.standing("AAAA") == expected(1)


@pytest.mark.parametrize(
    ("caller", "was_foretold"),
    [("a", True), ("b", True), ("c", False), ("d", False), ("nobody", None), (None, None)],
)
@pytest.mark.parametrize("done", [False, True])
def test_a_call_is_held_against_what_was_said_before_it(
    caller: str | None, was_foretold: bool | None, done: bool
) -> None:
    server = Server()
    server.hear("w", 0, {"a": 0, "b": 1, "c": 5, "d": None}, caller="a")
    assert server.last_heard[:2] == ("accepted", None)
    server.hear("w", 1, {"a": 1, "b": 9}, caller=caller, done=done)
    assert server.last_heard[:2] == ("accepted", was_foretold)
    server.hear("w", 1, caller="a")
    assert server.last_heard == Heard("ended" if done else "stale")


@pytest.mark.parametrize(("caller", "was_foretold"), [("a", None), ("b", True)])
def test_at_the_end_of_a_run_who_is_not_expected_may_still_go_on(
    caller: str, was_foretold: bool | None
) -> None:
    server = Server()
    server.hear("w", 1, {"a": None, "b": 1})
    server.hear("w", 2, {}, caller=caller)
    assert server.last_heard[:2] == ("accepted", was_foretold)


def test_of_a_workflow_that_has_ended_nothing_is_expected() -> None:
    server = Server()
    server.hear("w", 1, {"a": 1})
    server.hear("w", 2, done=True)
    assert server.foresight.expected("w").steps == {}
    server.hear("w", 3, {"a": 1}, caller="a")
    assert server.last_heard[:2] == ("accepted", None)


def test_changes_leave_the_agents_they_do_not_name_as_they_are() -> None:
    server = Server()
    server.hear("w", 1, {"a": 1, "b": 2})
    server.call("w", "a", "AAAA")
    server.call("w", "b", "BBBB")
    assert server.hear("w", 5, {"a": 4}, changes=True) == "accepted"
    assert (server.standing("AAAA"), server.standing("BBBB")) == (expected(4), expected(2))
    assert server.hear("w", 4, {"a": 0, "b": 0}, changes=True) == "accepted"  # overtaken
    assert (server.standing("AAAA"), server.standing("BBBB")) == (expected(4), expected(0))
    assert server.hear("w", 4, {"a": 0, "b": 0}, changes=True) == "stale"
    server.hear("w", 6, {"b": None}, changes=True)
    assert (server.standing("AAAA"), server.standing("BBBB")) == (expected(4), ORDINARY)
    assert server.hear("w", 7, done=True) == "accepted"
    assert server.hear("w", 6, {"a": 1}, changes=True) == "ended"


def test_a_change_revives_all_that_a_silent_workflow_had_told() -> None:
    server = Server()
    server.hear("w", 0, {"a": 2, "b": 3}, changes=True)
    server.call("w", "a", "AAAA")
    server.call("w", "b", "BBBB")
    server.foresight.turn_over(LIFETIME + 1)
    assert server.standing("BBBB") == ORDINARY
    server.hear("w", 1, {"a": 1}, changes=True)
    assert (server.standing("AAAA"), server.standing("BBBB")) == (expected(1), expected(3))


def test_trust_lost_and_won_back_concerns_every_agent_though_changes_name_few() -> None:
    server = Server()
    server.hear("w", 0, {"a": 1, "b": 5, "c": 7}, changes=True)
    server.call("w", "c", "CCCC")
    for seq in (1, 2):
        assert server.standing("CCCC") == expected(7)
        server.hear("w", seq, {"b": 5}, changes=True, caller="b")
    assert server.standing("CCCC") == ORDINARY
    for seq in (3, 4, 5, 6):
        server.hear("w", seq, {"a": 1}, changes=True, caller="a")
    assert server.standing("CCCC") == expected(7)


def test_agents_of_other_runs_are_expected_as_changes_name_them() -> None:
    server = Server()
    run_of_app(server, "one", "A")
    run_of_app(server, "two", "B")
    server.hear("three", 0, {"critic": 1}, changes=True, app="app")
    assert server.standing("You write. Do ") == ORDINARY
    server.hear("three", 1, {"writer": 3}, changes=True, app="app")
    assert server.standing("You write. Do ") == expected(3)


def test_a_workflow_that_has_ended_leaves_nothing_protected() -> None:
    server = Server()
    server.hear("w", 0, {"a": 0, "b": 1})
    server.call("w", "a", "Shared. A", "!")
    server.call("w", "b", "Shared. B", "!")
    assert server.hear("w", 1, done=True) == "accepted"
    assert set(server.tree.standings().values()) == {SPENT}
    assert (server.foresight.workflows, server.foresight.agents) == (0, 0)


def test_what_others_have_used_outlives_the_workflow() -> None:
    server = Server()
    server.hear("w", 0, {"a": 0})
    server.call("w", "a", "Shared. A")
    server.chat("Shared. Chat")
    server.hear("w", 1, done=True)
    assert server.standing("Shared. ") == ORDINARY
    assert server.standing("Shared. A") == SPENT


@pytest.mark.parametrize("seq", [0, 6, 7])
def test_a_late_forecast_does_not_bring_an_ended_workflow_back(seq: int) -> None:
    server = Server()
    server.hear("w", 5, {"a": 0})
    server.hear("w", 7, done=True)
    assert server.hear("w", seq, {"a": 0}) == "ended"
    assert server.hear("w", seq, done=True) == "ended"
    assert server.foresight.workflows == 0
    server.call("w", "a", "AAAA")
    assert server.standing("AAAA") == SPENT
    assert server.foresight.agents == 0


def test_the_name_of_an_ended_workflow_serves_a_later_run() -> None:
    server = Server()
    server.hear("w", 5, {"a": 0})
    server.call("w", "a", "AAAA old")
    server.hear("w", 7, done=True)
    assert server.hear("w", 8, {"a": 3}) == "accepted"
    # Nothing is left of what the earlier run had shown.
    assert server.foresight.agents == 0
    server.call("w", "a", "AAAA new")
    assert server.standing("AAAA new") == expected(3)
    assert server.standing("AAAA old") == SPENT


def test_an_end_may_be_the_first_that_is_heard() -> None:
    server = Server()
    assert server.hear("w", 3, done=True) == "accepted"
    assert server.hear("w", 3, {"a": 0}) == "ended"


def test_calls_without_a_forecast_or_an_agent_protect_nothing() -> None:
    server = Server()
    server.call("w", "a", "AAAA")
    server.hear("w", 0, {"a": 0})
    server.call("w", None, "BBBB")
    assert server.standing("AAAA") == SPENT
    assert server.standing("BBBB") == SPENT
    assert server.foresight.agents == 0


def test_without_pressure_no_forecast_is_lost() -> None:
    server = Server()
    server.hear("w", 0, {"a": 2})
    server.call("w", "a", "AAAA")
    server.foresight.turn_over(LIFETIME)
    assert server.standing("AAAA") == expected(2)


def test_a_silent_workflow_becomes_ordinary_and_a_hint_revives_it() -> None:
    server = Server()
    server.hear("w", 0, {"a": 2})
    server.hear("other", 0, {"b": 1})
    server.call("w", "a", "AAAA")
    server.call("other", "b", "BBBB")
    server.foresight.turn_over(LIFETIME // 2)
    server.hear("other", 1, {"b": 1})
    server.foresight.turn_over(LIFETIME // 2 + 1)
    server.foresight.check()
    assert server.standing("AAAA") == ORDINARY
    assert server.standing("BBBB") == expected(1)
    assert server.foresight.workflows == 2
    assert server.hear("w", 0, {"a": 1}) == "stale"
    assert server.standing("AAAA") == ORDINARY
    assert server.hear("w", 1, {"a": 1}) == "accepted"
    assert server.standing("AAAA") == expected(1)
    server.foresight.turn_over(LIFETIME + 1)
    assert server.standing("AAAA") == ORDINARY


def test_a_call_alone_does_not_revive_a_forecast_that_has_expired() -> None:
    server = Server()
    server.hear("w", 0, {"a": 2})
    server.call("w", "a", "AAAA")
    server.foresight.turn_over(LIFETIME + 1)
    server.call("w", "a", "AAAA")
    assert server.standing("AAAA") == ORDINARY


def test_an_end_finds_a_silent_workflow() -> None:
    server = Server()
    server.hear("w", 0, {"a": 2})
    server.call("w", "a", "AAAA")
    server.foresight.turn_over(LIFETIME + 1)
    server.hear("w", 1, done=True)
    assert server.standing("AAAA") == SPENT
    assert server.foresight.workflows == 0


def test_agents_yet_to_call_are_expected_like_those_of_other_runs() -> None:
    server = Server()
    run_of_app(server, "one", "A")
    server.hear("early", 0, {"writer": 3}, app="app")
    assert server.standing("You write. Do A") == SPENT  # one run shows no prefix yet
    run_of_app(server, "two", "B")
    server.hear("three", 0, {"writer": 3, "critic": 4}, app="app")
    assert server.standing("You write. Do ") == expected(3)
    server.hear("elsewhere", 0, {"writer": 0}, app="other app")
    server.hear("nowhere", 0, {"writer": 0})
    server.hear("three", 1, {"writer": 2}, app="app")
    assert server.standing("You write. Do ") == expected(2)
    server.call("three", "writer", "You write. Do C", "!")
    assert server.standing("You write. Do ") == expected(2)
    assert server.standing("You write. Do C") == SPENT
    server.hear("three", 2, done=True)
    assert server.standing("You write. Do ") == ORDINARY


def test_the_first_prompt_of_an_agent_that_grows_in_other_runs_is_kept_whole() -> None:
    server = Server()
    for run in ("one", "two"):
        server.hear(run, 0, {"writer": 0}, app="app")
        server.call(run, "writer", f"You write. {run}?", "!")
        server.call(run, "writer", f"You write. {run}?! More.", "!")
    server.hear("three", 0, {"writer": 1}, app="app")
    server.call("three", "writer", "You write. three?", "!")
    assert server.standing("You write. three?!") == expected(1)


def test_a_run_whose_prompts_are_its_own_keeps_the_first_of_each_agent() -> None:
    """As in KVFlow's workflows, one for each client: what runs share says nothing of them."""
    server = Server()
    for run in ("Ann", "Bob"):
        server.hear(run, 0, {"writer": 2}, app="app")
        server.call(run, "writer", f"{run}'s long story, which goes on", "!")
    server.hear("Cid", 0, {"writer": 2}, app="app")
    server.call("Cid", "writer", "Cid's long story, which goes on", "!")
    assert server.standing("Cid's long story, which goes on") == expected(2)
    # Its second prompt tells what is the run's own.
    server.call("Cid", "writer", "Cid's long story, which ends", "!")
    assert server.standing("Cid's long story, which ") == expected(2)
    assert server.standing("Cid's long story, which ends") == SPENT


@pytest.mark.parametrize("is_own", [True, False])
def test_runs_tell_whether_they_have_something_of_their_own_behind_what_all_share(
    is_own: bool,
) -> None:
    server = Server()
    template = "You write, as all of your kind have always done, for "
    for run in ("Ann", "Bob"):
        own = f"{run}, who loves sad tales. " if is_own else ""
        for call in "12":
            server.hear(run, int(call), {"writer": 2}, app="app")
            server.call(run, "writer", f"{template}{own}{call}{run} now.", "!")
    server.hear("Cid", 0, {"writer": 2}, app="app")
    server.call("Cid", "writer", f"{template}Cid, who loves sad tales. 1Cid now.", "!")
    assert server.standing(template) == expected(2)
    kept = server.standing(f"{template}Cid, who loves sad tales. 1Cid now.")
    assert kept == (expected(2) if is_own else SPENT)


def test_a_prefix_of_the_app_is_claimed_even_before_the_tree_has_it_again() -> None:
    server = Server()
    run_of_app(server, "one", "A")
    run_of_app(server, "two", "B")
    for _ in range(3):
        for leaf in server.tree.leaves():
            server.tree.remove(leaf)
    assert not list(server.tree.nodes())
    server.hear("three", 0, {"writer": 3}, app="app")
    server.chat("You write. Do ")
    assert server.standing("You write. Do ") == expected(3)


def test_only_the_first_call_of_a_run_teaches_the_app() -> None:
    server = Server()
    server.hear("one", 0, {"writer": 1}, app="app")
    server.call("one", "writer", "You write. Do A")
    server.call("one", "writer", "Summary instead")
    server.call("one", "writer", "Summary again")
    run_of_app(server, "two", "B")
    server.hear("three", 0, {"writer": 3}, app="app")
    assert server.standing("You write. Do ") == expected(3)


def test_namespaces_keep_equal_tokens_apart() -> None:
    server = Server()
    one, other = Namespace("lora-a"), Namespace(None, "salt")
    server.hear("w", 0, {"a": 1, "b": 5})
    server.call("w", "a", "Same", namespace=one)
    server.call("w", "b", "Same", namespace=other)
    server.chat("Same")
    assert server.standing("Same", one) == expected(1)
    assert server.standing("Same", other) == expected(5)
    assert server.standing("Same") == ORDINARY


def test_an_app_is_not_learned_across_namespaces() -> None:
    server = Server()
    namespace = Namespace("lora-a")
    run_of_app(server, "one", "A")
    server.hear("two", 0, {"writer": 3}, app="app")
    server.call("two", "writer", "You write. Do B", namespace=namespace)
    server.hear("two", 1, done=True)
    server.hear("three", 0, {"writer": 3}, app="app")
    server.chat("You write. Do what you like")
    assert server.standing("You write. Do ") == ORDINARY


def test_prefixes_are_claimed_in_whole_pages() -> None:
    server = Server(page_size=4)
    server.hear("w", 0, {"a": 1})
    server.call("w", "a", "12345678ab")
    server.call("w", "a", "123456zzzz")
    assert server.standing("1234") == expected(1)
    assert server.standing("12345678") == SPENT


def test_forecasts_that_are_not_heeded_protect_nothing_until_they_are() -> None:
    server = Server()
    server.hear("w", 0, {"writer": 2})
    server.call("w", "writer", "You write. Do A", " done")
    server.foresight.heed(False)
    server.foresight.check()
    assert server.standing("You write. Do A") == ORDINARY
    assert server.standing("You write. Do A done") == ORDINARY
    assert not server.foresight.is_trusted("w")
    server.hear("w", 1, {"writer": 0})
    assert server.standing("You write. Do A") == ORDINARY
    server.foresight.heed(True)
    server.foresight.check()
    assert server.standing("You write. Do A") == expected(0)
    assert server.standing("You write. Do A done") == SPENT


def test_answers_are_no_calls_that_come_true_and_no_pauses() -> None:
    """An inferred workflow tells with each answer what it expects, and then somebody else calls."""
    server = Server()
    for call in range(4):
        server.hear("w", 2 * call, {"a": 0, "b": 1}, caller="a")
        answer = Hint("w", Forecast(2 * call + 1, {"a": None, "b": 1}), is_answer=True)
        assert server.foresight.hear(answer).was_foretold is None
    assert server.foresight.distrusted == 1
    assert not server.foresight.is_trusted("w")


def test_an_agent_that_a_message_names_twice_over_is_claimed_once() -> None:
    """Changes of a workflow that had fallen silent: what was told before counts again as well."""
    server = Server()
    server.hear("three", 0, {"a": None}, app="app", changes=True)
    for run in ("one", "two"):
        server.hear(run, 0, {"a": 1}, app="app", caller="a")
        server.call(run, "a", "Fixed prompt")
    server.foresight.turn_over(LIFETIME + 1)
    server.hear("three", 2, {"a": 1}, app="app", changes=True)


class ForesightMachine(RuleBasedStateMachine):
    """Any traffic within tight limits: the books balance, and all is let go at the end."""

    workflows = st.sampled_from(["v", "w", "x"])
    agents = st.sampled_from(["a", "b", "c"])
    steps = st.dictionaries(agents, st.one_of(st.none(), st.integers(0, 3)))
    texts = st.text("01", min_size=1, max_size=8)
    namespaces = st.sampled_from([NOWHERE, Namespace("lora")])

    @initialize(most=st.integers(1, 6), page_size=st.sampled_from([1, 2]))
    def start(self, most: int, page_size: int) -> None:
        limits = Limits(most_workflows=most, most_agents=most, most_tokens=8 * most)
        self.limits = limits
        self.server = Server(limits, page_size)

    @rule(
        workflow=workflows,
        seq=st.integers(0, 20),
        steps=steps,
        kind=st.sampled_from(["whole", "changes", "done"]),
        caller=st.none() | agents,
        app=st.sampled_from([None, "app", "other"]),
    )
    def hear(
        self,
        workflow: str,
        seq: int,
        steps: dict[str, int | None],
        kind: str,
        caller: str | None,
        app: str | None,
    ) -> None:
        is_done = kind == "done"
        steps = {} if is_done else steps
        self.server.hear(
            workflow, seq, steps, done=is_done, changes=kind == "changes", caller=caller, app=app
        )

    @rule(workflow=workflows, agent=agents, prompt=texts, answer=texts, namespace=namespaces)
    def call(
        self, workflow: str, agent: str, prompt: str, answer: str, namespace: Namespace
    ) -> None:
        self.server.call(workflow, agent, prompt, answer, namespace)

    @rule(prompt=texts)
    def chat(self, prompt: str) -> None:
        self.server.chat(prompt)

    @rule(pick=st.integers(0, 100))
    def evict(self, pick: int) -> None:
        leaves = self.server.tree.leaves()
        if leaves:
            leaf = leaves[pick % len(leaves)]
            self.server.tree.remove(leaf)
            self.server.foresight.turn_over(len(leaf.key) * LIFETIME // 16)

    @invariant()
    def books_are_right(self) -> None:
        self.server.foresight.check()

    @invariant()
    def limits_are_kept(self) -> None:
        foresight = self.server.foresight
        assert foresight.workflows <= self.limits.most_workflows
        assert foresight.agents <= self.limits.most_agents
        assert foresight._memory.tokens_kept <= self.limits.most_tokens

    @invariant()
    def only_live_workflows_protect(self) -> None:
        foresight = self.server.foresight
        if all(workflow.is_dormant for workflow in foresight._memory):
            standings = self.server.tree.standings().values()
            assert all(standing is not Standing.EXPECTED for standing, _ in standings)

    def teardown(self) -> None:
        for workflow in "vwx":
            self.server.hear(workflow, 21, done=True)
        assert self.server.foresight.workflows == 0
        standings = self.server.tree.standings().values()
        assert all(standing is not Standing.EXPECTED for standing, _ in standings)


ForesightMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestForesightMachine = ForesightMachine.TestCase
