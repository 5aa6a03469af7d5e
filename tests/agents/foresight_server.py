"""A prefix tree and what is known of its users, told of requests as a server tells it."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from kvflow_agents.app_prompts import Namespace
from kvflow_agents.eviction import Standing
from kvflow_agents.forecast import Forecast
from kvflow_agents.foresight import Foresight, Outcome
from kvflow_agents.hints import Hint
from kvflow_agents.prefix import Tokens
from kvflow_agents.workflow_memory import Limits
from tests.agents.radix_tree import NOWHERE, Path, RadixTree, TreeNode

LIFETIME = 1000
ORDINARY = (Standing.ORDINARY, None)
SPENT = (Standing.SPENT, None)


def expected(steps: int) -> tuple[Standing, int]:
    return (Standing.EXPECTED, steps)


class Server:
    """A tree and what is known of its users, told of requests as a server tells it."""

    def __init__(self, limits: Limits | None = None, page_size: int = 1) -> None:
        self.tree = RadixTree(page_size)
        self.foresight: Foresight[TreeNode] = Foresight(
            self.tree.ledger,
            make_key=self.tree.make_key,
            cut=self.tree.cut,
            lifetime_tokens=LIFETIME,
            limits=limits,
        )

    def hear(
        self,
        workflow: str,
        seq: int,
        steps: Mapping[str, int | None] | None = None,
        *,
        done: bool = False,
        changes: bool = False,
        caller: str | None = None,
        app: str | None = None,
    ) -> Outcome:
        forecast = Forecast(seq, steps or {}, done=done, changes=changes)
        self.last_heard = self.foresight.hear(Hint(workflow, forecast, agent=caller, app=app))
        self.foresight.check()
        return self.last_heard.outcome

    def call(
        self,
        workflow: str,
        agent: str | None,
        prompt: str,
        answer: str = "",
        namespace: Namespace = NOWHERE,
    ) -> None:
        """The prompt's KV is computed and stored, then the answer's."""
        caller = Hint(workflow, Forecast(0), agent=agent)
        leaf = self.tree.grow(Path(tokens(prompt), namespace), workflow)
        self.foresight.prompt_cached(caller, tokens(prompt), namespace, leaf)
        self.foresight.check()
        whole = tokens(prompt + answer)
        leaf = self.tree.grow(Path(whole, namespace), workflow)
        self.foresight.answer_cached(caller, whole, namespace, leaf)
        self.foresight.check()

    def chat(self, prompt: str) -> None:
        """Somebody who tells nothing."""
        self.tree.insert(Path(tokens(prompt)), None)

    def standing(
        self, text: str, namespace: Namespace = NOWHERE
    ) -> tuple[Standing, int | None] | None:
        """Of the token at the end of a text, None if the tree lacks it. Splits nothing."""
        whole = Path(tokens(text), namespace)
        node, depth = self.tree.root, 0
        while depth < len(whole):
            child = node.children.get(whole.child_key_at(depth, self.tree.page_size))
            if child is None:
                return None
            shared = child.key.match_at(whole, depth)
            depth += shared
            if depth < len(whole) and shared < len(child.key):
                return None
            node = child
        return self.tree.ledger.standing(node)


def tokens(text: str) -> Tokens:
    return array("q", map(ord, text))


def run_of_app(server: Server, workflow: str, task: str, app: str = "app") -> None:
    server.hear(workflow, 0, {"writer": 3}, app=app)
    server.call(workflow, "writer", f"You write. Do {task}", "!")
    server.hear(workflow, 1, done=True, app=app)
