"""Which agents call with which adapter, and so how soon each adapter is used."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvflow_agents.claims import AT_ONCE
from kvflow_agents.forecast import Forecast
from kvflow_agents.foresight import Foresight
from kvflow_agents.hints import Hint
from kvflow_agents.lora_ledger import Adapter, AdapterLedger
from tests.agents.radix_tree import RadixTree, TreeNode

LIFETIME = 8


def ledger() -> AdapterLedger:
    return AdapterLedger(lifetime_evictions=LIFETIME)


def test_an_adapter_is_as_near_as_the_nearest_agent_that_shares_it() -> None:
    known = ledger()
    known.called("run", None, "writer", "style", 5)
    known.called("run", None, "critic", "style", 2)
    known.called("other", None, "writer", "style", 3)
    assert known.steps_of("style") == 2
    known.told("run", None, {"critic": 7})
    assert known.steps_of("style") == 3
    known.told("run", None, {"critic": None, "writer": None})
    known.forget("other")
    assert known.steps_of("style") is None


def test_the_base_model_is_an_adapter_too() -> None:
    known = ledger()
    known.called("run", None, "planner", None, 1)
    known.called("run", None, "writer", "style", 2)
    assert known.by_nearness() == [None, "style"]
    assert known.steps_of(None) == 1


def test_by_nearness_soonest_first_and_without_those_nobody_expects() -> None:
    known = ledger()
    for agent, steps in {"a": 3, "b": 0, "c": None, "d": 3, "e": 1}.items():
        known.called("run", None, agent, f"lora-{agent}", steps)
    assert known.by_nearness() == ["lora-b", "lora-e", "lora-a", "lora-d"]


def test_an_agent_that_takes_another_adapter_gives_up_the_first() -> None:
    known = ledger()
    known.called("run", None, "writer", "old", 1)
    known.called("run", None, "writer", "new", 1)
    assert known.steps_of("old") is None
    assert known.steps_of("new") == 1


def test_what_one_run_has_shown_counts_for_the_others_of_its_app() -> None:
    known = ledger()
    known.called("first", "app", "writer", "style", 0)
    known.forget("first")
    known.told("second", "app", {"writer": 1, "stranger": 0})
    assert known.steps_of("style") == 1
    known.told("third", "other app", {"writer": 0})
    assert known.steps_of("style") == 1


def test_an_agent_whose_adapter_is_unknown_is_not_guessed() -> None:
    known = ledger()
    known.told("run", None, {"writer": 1})
    assert known.by_nearness() == []


def test_a_silent_workflow_is_forgotten_when_enough_was_evicted() -> None:
    known = ledger()
    known.called("silent", None, "writer", "style", 1)
    known.called("lively", None, "critic", "taste", 1)
    for _ in range(LIFETIME):
        known.turn_over()
        known.told("lively", None, {"critic": 1})
    assert known.steps_of("style") == 1
    known.turn_over()
    assert known.steps_of("style") is None
    assert known.steps_of("taste") == 1


def test_what_a_hint_says_counts_until_the_agent_has_called() -> None:
    known = ledger()
    known.told("run", None, {"writer": 1, "critic": 2}, {"writer": "style"})
    assert known.by_nearness() == ["style"]
    known.told("run", None, {"writer": 1}, {"writer": "other"})
    assert known.by_nearness() == ["other"]
    known.called("run", None, "writer", "taste", 0)
    known.told("run", None, {"writer": 3}, {"writer": "style"})
    assert known.by_nearness() == ["taste"]
    assert known.steps_of("taste") == 3


def test_what_a_hint_says_goes_before_what_other_runs_have_shown() -> None:
    known = ledger()
    known.called("first", "app", "writer", "style", 0)
    known.forget("first")
    known.told("second", "app", {"writer": 1}, {"writer": "taste"})
    assert known.by_nearness() == ["taste"]


def test_whom_a_hint_names_without_expecting_it_is_remembered() -> None:
    known = ledger()
    known.told("run", None, {"writer": None}, {"writer": "style"})
    assert known.by_nearness() == []
    known.told("run", None, {"writer": 2})
    assert known.by_nearness() == ["style"]


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    known = AdapterLedger(lifetime_evictions=LIFETIME, most_agents=10, most_apps=3)
    for run in range(100):
        known.called(f"run-{run}", f"app-{run}", "writer", f"lora-{run}", 1)
    known.check()
    assert len(known) == 10
    assert known.steps_of("lora-99") == 1
    assert known.steps_of("lora-89") is None


class Server:
    """Foresight that keeps a ledger of adapters, told of requests as a server tells it."""

    def __init__(self) -> None:
        tree = RadixTree(1)
        self.adapters = ledger()
        self.foresight: Foresight[TreeNode] = Foresight(
            tree.ledger,
            make_key=tree.make_key,
            cut=tree.cut,
            lifetime_tokens=100,
            adapters=self.adapters,
        )

    def call(self, seq: int, agent: str, adapter: Adapter, **steps: int | None) -> None:
        hint = Hint("run", Forecast(seq, steps), agent=agent, app="app")
        self.foresight.hear(hint)
        self.foresight.called_with(hint, adapter)
        self.adapters.check()


def test_steps_come_from_the_workflows_forecasts() -> None:
    server = Server()
    server.call(1, "writer", "style", writer=0, critic=1)
    server.call(2, "critic", "taste", critic=0, writer=1)
    assert server.adapters.by_nearness() == ["taste", "style"]
    server.foresight.hear(Hint("run", Forecast(3, {"critic": None, "writer": 4})))
    assert server.adapters.by_nearness() == ["style"]
    server.foresight.hear(Hint("run", Forecast(4, done=True)))
    assert server.adapters.by_nearness() == []


def test_a_forecast_that_has_expired_expects_no_adapter_until_it_is_renewed() -> None:
    server = Server()
    server.call(1, "writer", "style", writer=2)
    server.foresight.turn_over(101)
    assert server.adapters.steps_of("style") is None
    changes = Forecast(2, {"critic": 0}, changes=True)
    server.foresight.hear(Hint("run", changes, app="app"))
    assert server.adapters.steps_of("style") == 2


def test_a_workflow_whose_forecasts_do_not_come_true_has_no_say() -> None:
    server = Server()
    server.call(1, "writer", "style", writer=1, critic=5)
    for seq in range(2, 12):
        server.call(seq, "critic", "taste", writer=1, critic=5)
    assert not server.foresight.is_trusted("run")
    assert server.adapters.by_nearness() == []


def test_forecasts_that_are_not_heeded_expect_no_adapter_and_count_again_later() -> None:
    server = Server()
    server.call(1, "writer", "style", writer=1, critic=2)
    server.call(2, "critic", "taste", critic=2, writer=1)
    server.foresight.heed(False)
    assert server.adapters.by_nearness() == []
    server.call(3, "editor", "tone", editor=1)
    server.foresight.hear(Hint("run", Forecast(4, {"writer": 1, "editor": 2}), app="app"))
    assert server.adapters.by_nearness() == []
    server.foresight.heed(True)
    assert server.adapters.by_nearness() == ["style", "tone"]


def test_a_hint_says_what_agents_will_call_with() -> None:
    server = Server()
    forecast = Forecast(1, {"writer": 1, "critic": 2}, loras={"critic": "taste"})
    server.foresight.hear(Hint("run", forecast))
    assert server.adapters.by_nearness() == ["taste"]


def test_every_adapter_of_a_large_forecast_is_expected() -> None:
    server = Server()
    steps = {f"agent {number}": 1 + number for number in range(3 * AT_ONCE)}
    loras = {agent: f"lora of {agent}" for agent in steps}
    server.foresight.hear(Hint("run", Forecast(1, steps, loras=loras)))
    server.foresight.catch_up(len(steps))
    assert server.adapters.by_nearness() == list(loras.values())
    # Of agents that changes name without it, what was told stays known.
    server.foresight.hear(Hint("run", Forecast(2, {"agent 7": 900}, changes=True)))
    assert server.adapters.by_nearness()[-1] == "lora of agent 7"


AGENTS = st.sampled_from("abcd")
STEPS = st.none() | st.integers(0, 4)


class Books(RuleBasedStateMachine):
    """Whatever happens, an adapter's distance is that of the nearest agent that calls with it."""

    def __init__(self) -> None:
        super().__init__()
        self.known = AdapterLedger(lifetime_evictions=3, most_agents=6, most_apps=2)

    @rule(
        run=AGENTS,
        app=st.none() | AGENTS,
        agent=AGENTS,
        adapter=st.none() | AGENTS,
        steps=STEPS,
    )
    def call(
        self, run: str, app: str | None, agent: str, adapter: Adapter, steps: int | None
    ) -> None:
        self.known.called(run, app, agent, adapter, steps)
        if steps is not None:
            nearest = self.known.steps_of(adapter)
            assert nearest is not None
            assert nearest <= steps

    @rule(
        run=AGENTS,
        app=st.none() | AGENTS,
        steps=st.dictionaries(AGENTS, STEPS),
        loras=st.dictionaries(AGENTS, AGENTS),
    )
    def tell(
        self, run: str, app: str | None, steps: dict[str, int | None], loras: dict[str, str]
    ) -> None:
        self.known.told(run, app, steps, loras)

    @rule(run=AGENTS)
    def forget(self, run: str) -> None:
        self.known.forget(run)

    @rule()
    def clear(self) -> None:
        self.known.clear()
        assert self.known.by_nearness() == []

    @rule()
    def evict(self) -> None:
        self.known.turn_over()

    @invariant()
    def holds(self) -> None:
        self.known.check()
        assert len(self.known) <= 6
        nearest = [self.known.steps_of(each) or 0 for each in self.known.by_nearness()]
        assert nearest == sorted(nearest)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
