"""A loop over the OpenAI SDK that tells the server nothing, against stock and against kvflow."""

from __future__ import annotations

import subprocess

import pytest
from rich.console import Console

from demos.comparison import POLICIES, Demo, Endpoint
from demos.openai_loop import Loop, scale_of
from kvflow_sglang.server_process import ServerProcess, server_python

POOL_TOKENS = 3_600


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """What the loop found on both servers, started one after the other."""
    folder = tmp_path_factory.mktemp("loop")
    make = [str(server_python().with_name("kvflow")), "model", "tiny", str(folder / "tiny")]
    subprocess.run(make, check=True, capture_output=True)
    loop = Loop(pool_tokens=POOL_TOKENS, answer_tokens=16, words=90, rounds=4)
    demo = Demo(loop, Console(quiet=True))
    for policy in POLICIES:
        flags = ["--enable-metrics", "--skip-server-warmup", "--max-total-tokens", str(POOL_TOKENS)]
        flags += ["--stock"] if policy == "stock" else []
        with ServerProcess(folder / "tiny", flags, log=folder / f"{policy}.log") as server:
            endpoint = Endpoint(server.base_url, "demo", "none", loop.answer_tokens)
            demo.run_on(endpoint, policy, False, POOL_TOKENS)
    return demo


def test_the_loop_finds_more_with_nothing_but_another_base_url(demo: Demo) -> None:
    stock, kvflow = demo.runs
    assert (stock.policy, kvflow.policy) == POLICIES
    assert stock.calls == kvflow.calls == 64
    assert kvflow.cached_tokens >= 1.5 * stock.cached_tokens
    assert kvflow.evicted_tokens < stock.evicted_tokens


def test_its_answers_do_not_depend_on_the_server(demo: Demo) -> None:
    found = demo.compare()
    assert (found.compared, found.different) == (64, 0)


@pytest.mark.parametrize("model", ["tiny", "folder/tiny", "smollm2"])
def test_it_runs_on_one_tier_and_is_as_long_as_it_says(model: str) -> None:
    loop = scale_of(model)
    assert loop.workloads(host_tier=False) == [loop]
    assert loop.workloads(host_tier=True) == []
    assert loop.calls == 2 * 5 * 8
