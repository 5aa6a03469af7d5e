"""Simulations of many agents: per tick the distances that have changed, and who calls.

    with Simulation("town", base_urls=["http://localhost:30000/v1"]) as simulation:
        for tick in range(1000):
            simulation.tick({name: ticks_until_it_calls(name) for name in agents})
            for name in agents_that_act_now():
                with simulation.agent(name):
                    client.chat.completions.create(...)

A simulation is one workflow. Distances are ticks (`kvflow_agents.distance`); what is new of them is
posted in the background. Nothing here blocks, and nothing raises once it is made.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import TracebackType
from typing import Self

from kvflow_agents import turns
from kvflow_agents.carrier import Call, Carrier
from kvflow_agents.courier import Courier
from kvflow_agents.distance import Distance, measure
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.hints import Hint, agent_name, fitting_loras, lora_name, workflow_name
from kvflow_agents.lora_ledger import NO_LORAS
from kvflow_agents.population import Population, batches
from kvflow_agents.servers import Server
from kvflow_agents.turns import Turn


class _Caller(Turn):
    """Code that works for an agent of a simulation."""

    def __init__(self, simulation: Simulation, agent: str) -> None:
        self.simulation = simulation
        self.agent = agent


_caller: ContextVar[_Caller | None] = ContextVar("kvflow_caller", default=None)


class Simulation:
    """Hints for the calls of simulated agents, and forecasts of all of them; a context manager.

    Without `base_urls`, `KVFLOW_BASE_URLS` says which servers take hints; ConfigurationError if
    neither does. Runs with the same `app` share what a server has learned of their agents' prompts.
    `loras`: with which LoRA adapter agents call. Safe to use from several threads.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        base_urls: Iterable[str] | None = None,
        app: str | None = None,
        loras: Mapping[str, str] = NO_LORAS,
        courier: Courier | None = None,
    ) -> None:
        self.name = workflow_name(str(name or uuid.uuid4().hex))
        self.app = None if app is None else _fingerprint(app)
        self.failsafe = Failsafe("a simulation")
        self.carrier = Carrier(self._identify, base_urls, courier=courier)
        named = {_name(agent): lora_name(lora) for agent, lora in loras.items()}
        self._loras = {agent: lora for agent, lora in named.items() if lora is not None}
        self._population = Population()
        self._informed: set[Server] = set()
        # Microseconds: no run can make hints fast enough to overtake a later one of its name.
        self._seq = itertools.count(time.time_ns() // 1000)
        self._lock = threading.Lock()

    def tick(self, distances: Mapping[str, float | None]) -> None:
        """The next tick: the distance of every agent there is, in ticks.

        `distance.NEVER`: as things stand it will not call; None: unknown. An agent that is not
        named has left the simulation.
        """
        self.failsafe(self._tick, distances)

    def tick_with(self, distance: Distance, agents: Iterable[str]) -> None:
        """The next tick: the agents there are, and who knows their distances."""
        self.failsafe(lambda: self._tick(measure(distance, agents, self.failsafe)))

    @contextmanager
    def agent(self, name: str) -> Iterator[None]:
        """Calls inside are the agent's, wherever they are made from this context."""
        caller = _Caller(self, _name(str(name)))
        turns.enter(_caller, caller)
        try:
            yield
        finally:
            turns.leave(_caller, caller)

    def hint(self, agent: str) -> Hint:
        """The hint for a call that `agent` makes now."""
        with self._lock:
            self._population.tell(agent, 0)
            return self._hint({agent: 0}, agent)

    def __enter__(self) -> Self:
        self.carrier.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.failsafe(self.carrier.uninstall)
        self.failsafe(self._end)

    def _tick(self, distances: Mapping[str, float | None]) -> None:
        named = {_name(str(agent)): distance for agent, distance in distances.items()}
        with self._lock:
            changes = self._population.tick(named)
            servers = self.carrier.servers_of(self.name)
            newcomers = [server for server in servers if server not in self._informed]
            informed = [server for server in servers if server in self._informed]
            self._informed.update(newcomers)
            self._post(informed, changes)
            if newcomers:
                self._post(newcomers, dict(self._population.told))

    def _post(self, servers: Iterable[Server], steps: Steps) -> None:
        hints = [self._hint(batch) for batch in batches(steps)]
        for server in servers:
            for hint in hints:
                self.carrier.post(server, hint)

    def _end(self) -> None:
        self.carrier.announce(Hint(self.name, Forecast(next(self._seq), done=True), app=self.app))

    def _hint(self, steps: Steps, agent: str | None = None) -> Hint:
        loras = fitting_loras(self._loras, steps)
        forecast = Forecast(next(self._seq), steps, changes=True, loras=loras)
        return Hint(self.name, forecast, agent=agent, app=self.app)

    def _identify(self) -> Call | None:
        caller = _caller.get()
        if caller is None or caller.simulation is not self:
            return None
        return Call(self, caller.agent)


@lru_cache(maxsize=65_536)
def _name(agent: str) -> str:
    return agent_name(agent.split("/"))


def _fingerprint(app: str) -> str:
    return hashlib.blake2b(app.encode("utf-8", "replace"), digest_size=16).hexdigest()
