"""What is inferred of requests without a hint: agents, workflows, and what comes next."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvflow_agents.errors import HintError
from kvflow_agents.hints import Hint, decode_request, encode_request
from kvflow_agents.inference import Inference, InferredCall
from kvflow_agents.inference_links import Answers, Prompts
from kvflow_agents.inference_prompts import PromptTree, chain_of
from kvflow_agents.inference_workflows import Intent, Origin

ROLES = ("planner", "writer", "critic")
HEAD = list(range(10))
ANSWER_TOKENS = 20


class Traffic:
    """Runs of teams whose agents call one after another; all text is random."""

    def __init__(self, seed: int = 0, *, common_tokens: int = 0) -> None:
        self.random = random.Random(seed)
        self.heard: list[Hint] = []
        self.inference = Inference(self.heard.append)
        self.common = self.text(common_tokens)
        self.systems = {role: [*HEAD, *self.common, *self.text(100)] for role in ROLES}
        self.calls: list[tuple[str, int, InferredCall]] = []
        self.said: dict[int, list[int]] = {}

    def text(self, tokens: int) -> list[int]:
        return list(array("I", self.random.randbytes(4 * tokens)))

    def call(self, role: str, run: int, origin: Origin | None = None) -> InferredCall:
        """One agent of one run calls, and quotes the beginning of what was said last."""
        quoted = self.said.get(run, [])[: ANSWER_TOKENS // 2]
        prompt = [*self.systems[role], *self.text(12), *quoted, *self.text(30)]
        call = self.send(prompt, origin)
        self.calls.append((role, run, call))
        self.said[run] = self.answer(call)
        return call

    def send(self, prompt: Sequence[int], origin: Origin | None = None) -> InferredCall:
        return self.inference.arrived(array("q", prompt), origin or Origin())

    def answer(self, call: InferredCall, answer: Sequence[int] | None = None) -> list[int]:
        said = list(answer or self.text(ANSWER_TOKENS))
        self.inference.finished(call, array("q", said))
        return said

    def one_off(self, tokens: int = 200) -> InferredCall:
        call = self.send([*HEAD, *self.common, *self.text(tokens)])
        self.answer(call)
        return call

    def turns(self, runs: int, rounds: int) -> None:
        """All runs at once, mixed at random; each goes through all roles, round by round."""
        left = {run: list(ROLES) * rounds for run in range(runs)}
        while left:
            run = self.random.choice(sorted(left))
            self.call(left[run].pop(0), run)
            if not left[run]:
                del left[run]

    def agents_of(self, role: str) -> set[str]:
        return {call.agent for known, _, call in self.calls if known == role and call.agent}


def next_after(call: InferredCall) -> str | None:
    assert call.caller is not None
    steps = call.caller.forecast.steps
    following = [agent for agent, count in steps.items() if count == 1]
    return following[0] if len(following) == 1 else None


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(0, 1000), st.sampled_from([0, 20, 32, 100, 333]))
def test_interleaved_runs_and_their_agents_are_told_apart(
    runs: int, seed: int, common_tokens: int
) -> None:
    traffic = Traffic(seed, common_tokens=common_tokens)
    traffic.turns(runs, rounds=6)
    late = traffic.calls[len(traffic.calls) // 2 :]
    agents = {role: {call.agent for known, _, call in late if known == role} for role in ROLES}
    assert all(len(names) == 1 and None not in names for names in agents.values())
    assert len(set.union(*agents.values())) == len(ROLES)
    for run in range(runs):
        assert len({call.workflow for _, of, call in late if of == run}) <= 1
    assert len({call.workflow for _, _, call in late}) == len({run for _, run, _ in late})


def test_what_follows_is_forecast_in_the_order_of_the_calls() -> None:
    traffic = Traffic()
    traffic.turns(runs=4, rounds=4)
    names = {role: traffic.agents_of(role).pop() for role in ROLES}
    call = traffic.call("planner", 0)
    assert call.caller is not None
    assert call.caller.forecast.steps == {
        names["planner"]: 0,
        names["writer"]: 1,
        names["critic"]: 2,
    }
    # An answer is no call.
    assert (call.caller.agent, call.caller.is_answer) == (call.agent, False)
    assert (traffic.heard[-1].agent, traffic.heard[-1].is_answer) == (None, True)
    # It has finished, so that its own next call is what is told of it now.
    assert traffic.heard[-1].forecast.steps == {
        names["writer"]: 1,
        names["critic"]: 2,
        names["planner"]: 3,
    }
    assert traffic.heard[-1].workflow == call.caller.workflow


def test_branches_that_run_at_once_all_follow_the_one_that_started_them() -> None:
    traffic = Traffic()
    for run in range(6):
        traffic.call("planner", run)
        quoted = traffic.said[run][:10]
        prompts = [[*traffic.systems[role], *quoted, *traffic.text(40)] for role in ROLES[1:]]
        calls = [traffic.send(prompt) for prompt in prompts]
        for call in calls:
            traffic.answer(call)
    last = traffic.call("planner", 99)
    assert last.caller is not None
    assert sorted(last.caller.forecast.steps.values(), key=str) == [0, 1, 1]


def test_a_growing_history_is_one_workflow_though_its_answers_are_short() -> None:
    traffic = Traffic()
    histories = [[*traffic.systems["planner"], *traffic.text(40)] for _ in range(3)]
    workflows: list[set[int]] = [set() for _ in histories]
    for _ in range(8):
        for number, history in enumerate(histories):
            call = traffic.send(history)
            workflows[number].add(call.workflow)
            history += [*traffic.answer(call, traffic.text(3)), *traffic.text(5)]
    assert [len(numbers) for numbers in workflows] == [1, 1, 1]
    assert len(set.union(*workflows)) == 3


def test_a_session_is_a_workflow_whatever_is_said_in_it() -> None:
    traffic = Traffic()
    for call in range(12):
        traffic.said.clear()
        for session in ("one", "two"):
            traffic.call(ROLES[call % 3], 0, Origin(session=session))
    assert len({call.workflow for _, _, call in traffic.calls}) == 2
    assert traffic.calls[-1][2].caller is not None


def test_names_of_sessions_do_not_matter() -> None:
    found = []
    for names in (("a", "b"), ("b" * 128, "日本")):
        traffic = Traffic()
        for call in range(12):
            traffic.call(ROLES[call % 3], call % 2, Origin(session=names[call % 2]))
        found.append([call for _, _, call in traffic.calls])
    assert found[0] == found[1]


@pytest.mark.parametrize("other", [Origin(space="lora"), Origin(scope="user 2")])
def test_nothing_links_requests_of_different_spaces_or_scopes(other: Origin) -> None:
    traffic = Traffic()
    first = traffic.call("planner", 0, Origin(scope="user 1"))
    second = traffic.call("writer", 0, other)
    assert first.workflow != second.workflow


def test_an_answer_that_several_workflows_got_links_nothing() -> None:
    traffic = Traffic()
    same = traffic.text(ANSWER_TOKENS)
    for role in ROLES:
        traffic.answer(traffic.send([*traffic.systems[role], *traffic.text(40)]), same)
    before = traffic.inference.workflows
    traffic.send([*traffic.systems["planner"], *same, *traffic.text(40)])
    assert traffic.inference.workflows == before + 1


def test_where_anything_may_follow_nothing_is_forecast() -> None:
    traffic = Traffic()
    traffic.systems = {str(role): [*HEAD, *traffic.text(100)] for role in range(12)}
    for call in range(800):
        traffic.call(str(traffic.random.randrange(12)), call % 4)
    late = [call for _, _, call in traffic.calls[400:]]
    assert all(call.agent is not None for call in late)
    assert sum(call.caller is not None for call in late) <= 0.1 * len(late)


def test_the_last_agent_of_a_run_is_not_expected_to_be_followed() -> None:
    traffic = Traffic()
    for run in range(40):
        for role in ROLES:
            traffic.call(role, run)
        for _ in range(30):
            traffic.one_off()
    *_, planner, writer, critic = [call for _, _, call in traffic.calls]
    assert planner.caller is not None and writer.caller is not None
    assert critic.agent is not None and critic.caller is None


def test_a_silent_workflow_loses_its_forecast() -> None:
    traffic = Traffic()
    traffic.turns(runs=3, rounds=4)
    call = traffic.call("planner", 0)
    assert call.caller is not None
    for _ in range(200):
        traffic.one_off()
    mine = [hint for hint in traffic.heard if hint.workflow == call.caller.workflow]
    assert mine[-1].forecast.steps == {}
    assert not mine[-1].forecast.done
    assert [hint.forecast.seq for hint in mine] == sorted({hint.forecast.seq for hint in mine})


def test_an_application_that_changes_is_learned_anew() -> None:
    traffic = Traffic()
    traffic.turns(runs=2, rounds=30)
    names = {role: traffic.agents_of(role).pop() for role in ROLES}
    for _ in range(60):
        for role in ("planner", "critic", "writer"):
            traffic.call(role, 0)
    assert next_after(traffic.call("planner", 0)) == names["critic"]


def test_one_off_prompts_are_no_agents() -> None:
    traffic = Traffic(common_tokens=100)
    for _ in range(50_000):
        traffic.one_off(64)
    remembered = traffic.inference.remembered
    for _ in range(10_000):
        traffic.one_off(64)
    assert traffic.heard == []
    assert traffic.inference.inferred == 0
    assert traffic.inference.abstained == 60_000
    assert traffic.inference.workflows == 4096
    assert traffic.inference.remembered <= remembered + 256
    # Nor do they hide the agents that begin like them.
    traffic.turns(runs=16, rounds=5)
    assert all(len(traffic.agents_of(role)) >= 1 for role in ROLES)
    assert traffic.calls[-20][2].caller is not None


def test_what_is_rare_is_forgotten_before_what_is_common() -> None:
    tree, answers, ends = PromptTree(most_nodes=100), Answers(most_windows=50), Prompts(most_ends=9)
    text = Traffic().text
    common = text(64)
    for workflow in range(500):
        prompt = array("q", [*common, *text(200)])
        chain = chain_of(prompt, "", 64)
        tree.see(chain, workflow)
        ends.add(prompt, chain, workflow)
        answers.add(array("q", text(64)), workflow)
    assert (len(tree), len(answers), len(ends)) == (100, 50, 9)
    fixed = tree.find(chain_of(array("q", [*common, *text(200)]), "", 64))
    assert fixed is not None and fixed.tokens == len(common)


def test_no_hint_from_outside_has_the_name_of_an_inferred_workflow() -> None:
    traffic = Traffic()
    traffic.turns(runs=2, rounds=4)
    with pytest.raises(HintError):
        decode_request(encode_request(traffic.heard[-1]))


Requests = list[tuple[list[int], list[int], str | None, bool]]
SOME_TEXT = st.lists(st.integers(0, 3), max_size=90)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(SOME_TEXT, SOME_TEXT, st.sampled_from([None, None, "a", "b"]), st.booleans()),
        max_size=60,
    )
)
def test_whatever_comes_it_decides_alike_on_every_rank(requests: Requests) -> None:
    ranks: list[tuple[Inference, list[Hint]]] = []
    for _ in range(2):
        heard: list[Hint] = []
        ranks.append((Inference(heard.append, most_workflows=5, most_apps=2), heard))
    for inference, _ in ranks:
        open_calls: list[InferredCall] = []
        for prompt, answer, session, is_answered in requests:
            open_calls.append(inference.arrived(array("q", prompt), Origin(session=session)))
            if is_answered:
                inference.finished(open_calls.pop(len(prompt) % len(open_calls)), _array(answer))
        assert inference.workflows <= 5
    assert ranks[0][1] == ranks[1][1]


def _array(tokens: Sequence[int]) -> array[int]:
    return array("q", tokens)


def test_a_conversation_that_goes_on_is_expected_before_anything_is_known() -> None:
    traffic = Traffic()
    prompt = array("q", traffic.text(200))
    session = Origin(session="s")
    call = traffic.inference.arrived(prompt, session, Intent(conversation="s"))
    assert call.caller is not None and call.caller.agent is not None
    assert call.agent is None  # and nothing is learned of a name that means one conversation
    name = call.caller.agent
    assert call.caller.forecast.steps == {name: 0}
    traffic.answer(call)
    after = traffic.heard[-1]
    assert after.agent is None and after.forecast.changes
    assert after.forecast.steps == {name: 1}
    assert [hint.workflow for hint in traffic.heard] == [call.caller.workflow] * 2
    with pytest.raises(HintError):
        decode_request(encode_request(call.caller))  # no client can use the name


def test_conversations_of_one_workflow_keep_what_was_said_of_them() -> None:
    traffic = Traffic()
    session = Origin(session="run")
    calls = [
        traffic.inference.arrived(array("q", traffic.text(200)), session, Intent(conversation=name))
        for name in ("run:a", "run:b")
    ]
    first, second = (call.caller for call in calls)
    assert first is not None and second is not None
    assert first.workflow == second.workflow and first.agent != second.agent
    assert first.forecast.changes and second.forecast.changes


def test_what_is_inferred_goes_before_what_a_client_says_of_its_conversation() -> None:
    traffic = Traffic()
    traffic.turns(12, 3)
    prompt = [*traffic.systems["writer"], *traffic.text(40)]
    intent = Intent(conversation="s")
    call = traffic.inference.arrived(array("q", prompt), Origin(session="s"), intent)
    assert call.caller is not None and call.caller.agent == call.agent
    assert not call.caller.forecast.changes


def test_a_workflow_whose_client_says_so_has_ended() -> None:
    traffic = Traffic()
    session = Origin(session="s")
    calls = []
    for is_last in (False, True, False):
        prompt = array("q", traffic.text(200))
        call = traffic.inference.arrived(prompt, session, Intent("s", is_last=is_last))
        traffic.answer(call)
        calls.append(call)
    done = [hint for hint in traffic.heard if hint.forecast.done]
    assert len(done) == 1
    assert calls[0].caller is not None and done[0].workflow == calls[0].caller.workflow
    seqs = [hint.forecast.seq for hint in traffic.heard if hint.workflow == done[0].workflow]
    assert seqs == sorted(set(seqs)) and seqs[-1] == done[0].forecast.seq
    # Another one of the session's name is another workflow.
    assert calls[0].workflow == calls[1].workflow != calls[2].workflow
    assert traffic.inference.workflows == 1
