"""Admission that lets a request wait for its prefix while others run (KVFlow, section 3.2)."""

from __future__ import annotations

from typing import Any

from kvflow_sglang.compat.scheduler import AddReqResult, PrefillAdder


class PatientPrefillAdder(PrefillAdder):
    """Passes over requests whose prefix is being loaded.

    `CONTINUE` without an admission leaves a request in the waiting queue and goes on to the next.
    In that pass SGLang counts its LoRA adapter among those that run, as if it had been admitted.
    """

    def add_one_req(
        self, req: Any, has_chunked_req: bool, truncation_align_size: int | None
    ) -> AddReqResult:
        # Others may have been retracted for this one already: their room is not to stay empty.
        if req.host_hit_length > 0 and not self.preempt_list and self._should_wait(req):
            return AddReqResult.CONTINUE
        return super().add_one_req(req, has_chunked_req, truncation_align_size)

    def _should_wait(self, req: Any) -> bool:
        prefetcher = self.tree_cache.prefetcher
        if prefetcher is None:
            return False
        others_can_run = bool(self.can_run_list) or bool(self.running_batch.reqs)
        new_tokens = len(req.full_untruncated_fill_ids) - req.prefix_len
        # A load for a request that has no room to run would only push others out.
        has_room = new_tokens + self.page_size < self.rem_total_tokens
        waits: bool = prefetcher.should_wait(req, others_can_run=others_can_run and has_room)
        return waits


def make_patient(adder_class: type[PrefillAdder]) -> type[PrefillAdder]:
    """The class to admit with, instead of SGLang's own."""
    if adder_class is PrefillAdder:
        return PatientPrefillAdder
    return type(f"Patient{adder_class.__name__}", (PatientPrefillAdder, adder_class), {})
