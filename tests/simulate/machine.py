"""A machine whose times can be worked out by hand."""

from __future__ import annotations

from kvflow_simulate.machine import Machine

# A thousand tokens a second computed, a hundred over the link.
MACHINE = Machine(
    prefill_fixed_s=1.0,
    prefill_tokens_per_s=1000.0,
    decode_fixed_s=0.5,
    link_bytes_per_s=100.0,
    token_bytes=1,
    layers=4,
)
