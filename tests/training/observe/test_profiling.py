# SPDX-License-Identifier: Apache-2.0
"""Which steps a trace records, and that it is written whatever happens."""

from pathlib import Path

import jax
import pytest

from training.observe.profiling import FOLDER, WARM_UP, Trace


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What is asked of JAX's profiler and of the device, in order."""
    calls: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(f"to {folder}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    monkeypatch.setattr(jax, "block_until_ready", lambda result: calls.append(f"wait {result}"))
    return calls


def test_it_records_so_many_steps_after_the_first(calls):
    trace = Trace(Path("run"), steps=3)
    waited = [trace.step(step, lambda: calls.append("pause")) for step in range(1, 10)]
    last = WARM_UP + 3
    assert waited == [step == last for step in range(1, 10)]
    assert calls == [
        *(f"wait {WARM_UP}", "pause", f"to run/{FOLDER}"),
        *(f"wait {last}", "pause", "stop"),
    ]
    trace.close()
    assert len(calls) == 6


def test_a_run_that_ends_early_writes_what_there_is(calls):
    trace = Trace(Path("run"), steps=100)
    for step in range(1, 5):
        trace.step(step, lambda: None)
    trace.close(4)
    assert calls[2:] == ["wait 4", "stop"]


def test_no_steps_are_no_trace(calls):
    trace = Trace(Path("run"), steps=0)
    assert not any(trace.step(step, lambda: None) for step in range(5))
    trace.close()
    assert calls == []
