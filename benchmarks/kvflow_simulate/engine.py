"""The engine: continuous batching over a two-tier cache, from event to event."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable

from kvflow_agents.arrivals import Arrivals
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.hints import Hint
from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.prefetch import FEWEST_TOKENS, MOST_WAITS, SPARE_TOKENS
from kvflow_agents.prefix import Tokens
from kvflow_simulate.adapters import AdapterSlots
from kvflow_simulate.early_loads import EarlyLoads, Flight
from kvflow_simulate.job import Job
from kvflow_simulate.machine import Machine
from kvflow_simulate.policies import Policy
from kvflow_simulate.requests import Request, Served, Traffic
from kvflow_simulate.tree import Match, PrefixTree, host_only


class Engine:
    """One server. Its clock, in seconds, goes on over several runs.

    A pass admits requests in the order of arrival and prefills them, or else decodes; prefill
    goes first, as in SGLang. ConfigurationError if a request can never fit.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        pool_tokens: int,
        host_tokens: int,
        policy: Callable[[PrefixTree], Policy],
        slots: int = 1,
        overlaps_loras: bool = False,
        is_stock: bool = True,
    ) -> None:
        """`slots`: for LoRA adapters, the base model included."""
        self.now_s = 0.0
        self.counts: Counter[str] = Counter()
        self._machine = machine
        made: list[Policy] = []

        def make(tree: PrefixTree) -> Policy:
            made.append(policy(tree))
            return made[0]

        self.tree = PrefixTree(device_tokens=pool_tokens, host_tokens=host_tokens, order=make)
        self.policy = made[0]
        if slots > 1:
            self.policy.manage_adapters()
        self.early = EarlyLoads(self.tree, self.policy, make_room=self._make_room)
        self.tree.on_split = self.early.split
        self.adapters = AdapterSlots(
            slots,
            self.policy,
            overlaps=overlaps_loras,
            # SGLang does not hear of uses while it loads beside its computation.
            counts_uses=not (is_stock and overlaps_loras),
            load=lambda: self._occupy_link_s(machine.adapter_s),
        )
        self._private_tokens = 0
        self._link_free_s = 0.0
        self._frontend_free_s = 0.0
        self._sent = 0
        self._to_come: list[tuple[float, int, Job | Hint]] = []
        self._arrivals = Arrivals()
        self._is_put_off = False
        self._waiting: deque[Job] = deque()
        self._chunked: Job | None = None
        self._running: list[Job] = []
        # The adapters of all that has arrived and is not answered.
        self._wanted: Counter[Adapter] = Counter()
        self._served: list[Served] = []

    @property
    def free_tokens(self) -> int:
        """Slots that hold nothing and are promised to nobody."""
        taken = self.tree.device_used + self._private_tokens + self.early.reserved_tokens
        return self.tree.device_tokens - taken

    def run(self, traffic: Traffic) -> list[Served]:
        """Serve all of the traffic; in order of completion."""
        self._traffic = traffic
        self._served = []
        for request in traffic.first():
            self._send(request, self.now_s)
        while self._pass():
            pass
        assert not self._running and not self._private_tokens, "something was left undone"
        return self._served

    def _pass(self) -> bool:
        """One pass of the scheduler; False if there is nothing left to do."""
        self._take_arrivals()
        self._finish_copies()
        self._start_copy()
        batch = self._admit()
        if batch:
            self._prefill(batch)
        elif self._running:
            self._decode()
        elif self._is_put_off and self.adapters.loads_ahead:
            pass  # the next pass follows at once
        elif self._next_event_s() < math.inf:
            self.now_s = max(self.now_s, self._next_event_s())
        elif self._waiting:
            tokens = len(self._waiting[0].request.prompt)
            raise ConfigurationError(f"a prompt of {tokens} tokens does not fit in the pool")
        else:
            return False
        return True

    def _next_event_s(self) -> float:
        """When something comes from outside, is sent there, or a copy ends."""
        arrival_s = self._to_come[0][0] if self._to_come else math.inf
        flight = self.early.flight
        flight_s = math.inf if flight is None else flight.ends_s
        return min(arrival_s, flight_s, self.adapters.next_end_s, self._traffic.next_s)

    def _let_send(self) -> None:
        """What has its time is sent, up to now; before any answer of now is heard."""
        while (at_s := self._traffic.next_s) <= self.now_s:
            sent = self._traffic.send()
            if isinstance(sent, Request):
                self._send(sent, at_s)
            elif sent is not None:
                # Behind the calls that were made before, but it keeps no call waiting.
                self._come(sent, max(at_s + self._machine.overhead_s, self._frontend_free_s))

    def _send(self, request: Request, at_s: float) -> None:
        job = Job(request, at_s, left_tokens=len(request.answer) + 1)
        ready_s = max(at_s + self._machine.overhead_s, self._frontend_free_s)
        self._frontend_free_s = ready_s + self._machine.frontend_s
        self._come(job, self._frontend_free_s)

    def _come(self, what: Job | Hint, at_s: float) -> None:
        self._sent += 1
        heapq.heappush(self._to_come, (at_s, self._sent, what))

    def _take_arrivals(self) -> None:
        self._let_send()
        while self._to_come and self._to_come[0][0] <= self.now_s:
            come = heapq.heappop(self._to_come)[2]
            self.early.wake()
            if not isinstance(come, Job):
                self.policy.told(come, self.now_s)
                continue
            self.policy.arrived(come.request, self.now_s)
            self._arrivals.note()
            self._wanted[come.request.adapter] += 1
            self._waiting.append(come)

    def _finish_copies(self) -> None:
        self.adapters.land(self.now_s)
        flight = self.early.flight
        if flight is not None and flight.ends_s <= self.now_s:
            self.early.land()

    def _start_copy(self) -> None:
        """One copy ahead in all; an adapter's goes first, for nothing can run without it."""
        self._is_put_off = self._arrivals.go_first()
        if self._is_put_off:
            return
        self.adapters.load_ahead(self._wanted.keys(), link_is_free=self.early.flight is None)
        if self.adapters.needs_link or self.adapters.loading:
            return
        parts = self.early.next_copy()
        if parts:
            self.now_s += self._machine.launch_s
            tokens = sum(part.tokens for part in parts)
            self.early.flight = Flight(parts, self._occupy_link_s(self._machine.load_s(tokens)))

    @property
    def _may_start_copy(self) -> bool:
        """Whether the next pass may start a copy ahead, for all that is known now."""
        return self.early.may_start or (self._is_put_off and self.adapters.loads_ahead)

    def _occupy_link_s(self, seconds: float) -> float:
        """Queue a copy behind what is on the link; when it ends."""
        self._link_free_s = max(self.now_s, self._link_free_s) + seconds
        return self._link_free_s

    def _admit(self) -> list[Job]:
        """The next prefill batch, its slots taken."""
        batch: list[Job] = []
        budget, most = self._machine.chunk_tokens, self._machine.most_running
        if self._chunked is not None:
            job, self._chunked = self._chunked, None
            budget -= self._take(job, budget)
            batch.append(job)
        in_use = _adapters_of(*self._running, *batch)
        passed_over: list[Job] = []
        while self._waiting and budget > 0 and len(self._running) + len(batch) < most:
            job = self._waiting[0]
            if not self.adapters.admits(job.request.adapter, in_use):
                passed_over.append(self._waiting.popleft())
                continue
            match = self.tree.match(job.request.prompt[:-1])
            if self._should_wait(job, match):
                passed_over.append(self._waiting.popleft())
                continue
            if not self._seat(job, match, batch):
                break
            self._waiting.popleft()
            budget -= self._take(job, budget)
            batch.append(job)
            in_use.add(job.request.adapter)
        self._waiting.extendleft(reversed(passed_over))
        return batch

    def _should_wait(self, job: Job, match: Match) -> bool:
        """While its prefix is under way a request waits, for so many copies at most."""
        flight = self.early.flight
        if flight is None or not match.host_tokens or not self.early.brings(match.node):
            return False
        if job.waits_for is not flight:
            if job.waits >= MOST_WAITS:
                return False
            job.waits, job.waits_for = job.waits + 1, flight
            self.early.note_late()
        return True

    def _seat(self, job: Job, match: Match, batch: list[Job]) -> bool:
        """Give a request its cached prefix, loaded if need be, if there is room for the rest."""
        self.tree.lock(match.node)
        promised = sum(each.slots_to_come for each in (*self._running, *batch))
        # All of a prompt's slots are taken from what is free now, chunk by chunk.
        promised += sum(len(b.request.prompt) - b.done_tokens - b.take_tokens for b in batch)
        needed = len(job.request.prompt) - match.device_tokens + job.slots_to_come
        if needed > self.free_tokens + self.tree.evictable_tokens - promised:
            self.tree.unlock(match.node)
            return False
        job.held = match.node
        job.kept_tokens = match.device_tokens
        if match.host_tokens >= FEWEST_TOKENS:
            self._allocate(match.host_tokens)
            self.tree.load(host_only(match.node))
            job.loaded_tokens = match.host_tokens
            self.counts["loaded_tokens"] += match.host_tokens
        elif match.host_tokens:
            self.tree.lock(match.device)
            self.tree.unlock(match.node)
            job.held = match.device
        job.done_tokens = job.kept_tokens + job.loaded_tokens
        job.prefetched_tokens = self.early.read(match.device, waited=job.waits > 0)
        job.kept_tokens -= job.prefetched_tokens
        self.policy.found(job.request, job.done_tokens)
        job.adapter_ready_s = self.adapters.use(job.request.adapter)
        return True

    def _take(self, job: Job, most: int) -> int:
        """Take slots for the next piece of a prompt; how many tokens it has."""
        job.take_tokens = min(len(job.request.prompt) - job.done_tokens, most)
        self._allocate(job.take_tokens)
        self._private_tokens += job.take_tokens
        return job.take_tokens

    def _prefill(self, batch: list[Job]) -> None:
        loaded = sum(job.loaded_tokens for job in batch if job.first_token_s == 0.0)
        computed = sum(job.take_tokens for job in batch)
        seconds = self._machine.prefill_s(computed)
        self.now_s = max(self.now_s, *(job.adapter_ready_s for job in batch))
        if loaded:
            load_s = self._occupy_link_s(self._machine.load_s(loaded)) - self.now_s
            seconds = self._machine.overlapped_s(load_s, seconds)
        self.now_s += seconds
        for job in batch:
            job.done_tokens += job.take_tokens
            self._cache(job, job.request.prompt[: job.done_tokens], job.take_tokens)
            job.take_tokens = 0
            # Its load is paid for, whether its prompt is done or not.
            job.first_token_s = self.now_s
            if job.done_tokens < len(job.request.prompt):
                self._chunked = job
                continue
            assert job.held is not None
            self.policy.prompt_cached(job.request, job.held)
            job.left_tokens -= 1
            self._running.append(job)
        self._end_finished()

    def _decode(self) -> None:
        """As many steps as pass before a request ends, something comes, or a copy may start."""
        longest = max(len(job.request.prompt) for job in self._running)
        step_s = self._machine.decode_s(len(self._running), longest)
        steps = 1 if self._may_start_copy else min(job.left_tokens for job in self._running)
        left_s = self._next_event_s() - self.now_s
        if step_s > 0 and left_s < steps * step_s:
            steps = max(math.ceil(left_s / step_s), 1)
        slots = len(self._running) * steps
        self._allocate(slots)
        self._private_tokens += slots
        self.now_s += steps * step_s
        for job in self._running:
            job.left_tokens -= steps
        self._end_finished()

    def _end_finished(self) -> None:
        finished = [job for job in self._running if job.left_tokens == 0]
        if finished:
            self._running = [job for job in self._running if job.left_tokens]
            self._let_send()
        for job in finished:
            self._end(job)

    def _end(self, job: Job) -> None:
        request = job.request
        assert job.held is not None
        if request.answer:
            self._cache(job, request.prompt + request.answer, len(request.answer))
        self.policy.answer_cached(request, job.held)
        self.tree.unlock(job.held)
        self._wanted[request.adapter] -= 1
        if not self._wanted[request.adapter]:
            del self._wanted[request.adapter]
        self.early.wake()
        computed = len(request.prompt) - job.kept_tokens - job.prefetched_tokens
        served = Served(
            request=request,
            sent_s=job.sent_s,
            first_token_s=job.first_token_s,
            ended_s=self.now_s,
            kept_tokens=job.kept_tokens,
            prefetched_tokens=job.prefetched_tokens,
            loaded_tokens=job.loaded_tokens,
            computed_tokens=computed - job.loaded_tokens,
        )
        self._served.append(served)
        for following in self._traffic.answered(request):
            self._send(following, self.now_s)

    def _cache(self, job: Job, tokens: Tokens, private_tokens: int) -> None:
        """What a request has computed enters the tree; what was there already is freed."""
        self._private_tokens -= private_tokens
        self.policy.inserting(job.request)
        leaf = self.tree.insert(tokens, job.inserted_tokens)
        job.inserted_tokens = len(tokens)
        self.tree.lock(leaf)
        assert job.held is not None
        self.tree.unlock(job.held)
        job.held = leaf
        self.early.wake()

    def _allocate(self, tokens: int) -> None:
        """Free so many slots. A copy under way is waited for if nothing else gives them."""
        self._evict(tokens - self.free_tokens)
        if self.free_tokens < tokens and self.early.flight is not None:
            self.now_s = max(self.now_s, self.early.flight.ends_s)
            self.early.land()
            self._evict(tokens - self.free_tokens)
        assert self.free_tokens >= tokens, "a request was admitted without room"

    def _make_room(self, tokens: int, beyond: int) -> int:
        """Free slots for an early load of what is needed beyond a distance only; how many.

        Besides what the running requests are about to write.
        """
        spare_tokens = sum(min(job.slots_to_come, SPARE_TOKENS) for job in self._running)
        shortfall = tokens + spare_tokens - self.free_tokens
        self._evict(shortfall, needed_beyond=beyond)
        return max(min(tokens, self.free_tokens - spare_tokens), 0)

    def _evict(self, tokens: int, *, needed_beyond: int | None = None) -> None:
        if tokens > 0:
            evicted = self.tree.evict(tokens, needed_beyond=needed_beyond)
            self.counts["evicted_tokens"] += evicted
            self.policy.turn_over(evicted)


def _adapters_of(*jobs: Job) -> set[Adapter]:
    return {job.request.adapter for job in jobs}
