"""What the runs of applications have shown of their agents' prompts, for runs that come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kvflow_agents.prefix import PrefixHistory, Tokens

# So much more two prompts may share by chance: what differs can begin alike.
MOST_BY_CHANCE_TOKENS = 16


class Namespace(NamedTuple):
    """What keeps equal tokens of different requests apart; SGLang's `extra_key`, `cache_salt`."""

    extra_key: str | None = None
    cache_salt: str | None = None


@dataclass(slots=True)
class Shown:
    """An agent as all runs of an application have it: their first prompts, one after another."""

    namespace: Namespace
    history: PrefixHistory = field(default_factory=PrefixHistory)
    runs: int = 0
    grows: bool = False
    """Whether it has kept a growing history, in the run that has shown it last."""
    differs: bool | None = None
    """Whether its prompts in that run shared more than those of different runs do: a run has
    something of its own in them, such as a client's name. None: no run has shown two prompts."""

    def expected(self) -> PrefixHistory:
        """The history of one that has not called yet."""
        history = PrefixHistory(like=self.history.tokens, grows=self.grows, differs=self.differs)
        history.prefix_tokens = self.history.prefix_tokens
        return history


class AppPrompts:
    """By application, the one that was silent longest first; whoever holds it sets its bounds."""

    def __init__(self) -> None:
        self.agents = 0
        self.tokens_kept = 0
        self._apps: OrderedDict[str, dict[str, Shown]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._apps)

    def __iter__(self) -> Iterator[Shown]:
        return (shown for known in self._apps.values() for shown in known.values())

    def of(self, app: str) -> dict[str, Shown]:
        """The agents that an application's runs have shown, by name."""
        return self._apps.get(app, {})

    def learn(
        self, app: str, name: str, own: PrefixHistory, prompt: Tokens, namespace: Namespace
    ) -> None:
        """An agent of a run has called; only its first two prompts, by its `own` history, tell."""
        if own.prompts > 2:
            return
        known = self._apps.setdefault(app, {})
        self._apps.move_to_end(app)
        shown = known.get(name)
        if shown is None:
            shown = known[name] = Shown(namespace)
            self.agents += 1
        if own.prompts == 2:
            shown.grows = own.grows
            if shown.runs > 1:
                most = shown.history.prefix_tokens + MOST_BY_CHANCE_TOKENS
                shown.differs = own.prefix_tokens > most
        elif shown.namespace == namespace:
            self.tokens_kept -= shown.history.tokens_kept
            shown.history.see_prompt(prompt)
            self.tokens_kept += shown.history.tokens_kept
            shown.runs += 1

    def forget_oldest(self) -> None:
        """Forget one application."""
        _, known = self._apps.popitem(last=False)
        self.agents -= len(known)
        self.tokens_kept -= sum(shown.history.tokens_kept for shown in known.values())

    def clear(self) -> None:
        """Forget all."""
        while self._apps:
            self.forget_oldest()

    def check(self) -> None:
        """Assert that the books are right; for tests."""
        shown = list(self)
        assert self.agents == len(shown), "agents of applications are off"
        kept = sum(each.history.tokens_kept for each in shown)
        assert self.tokens_kept == kept, "tokens of applications are off"
