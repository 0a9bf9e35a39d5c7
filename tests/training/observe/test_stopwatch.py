# SPDX-License-Identifier: Apache-2.0
"""Where the wall time goes, by a clock that the test turns."""

from types import SimpleNamespace

import jax
import pytest

from recurrentgemma.counts import flops_per_token
from recurrentgemma.presets import griffin_100m
from training.observe.stopwatch import Stopwatch


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_goodput_and_mfu():
    clock, config = Clock(), griffin_100m()
    devices = [SimpleNamespace(device_kind="TPU v5 lite")] * 4
    flops = flops_per_token(config, 512)["training"]
    watch = Stopwatch(
        items_per_step=1000, flops_per_step=1000 * flops, devices=devices, clock=clock
    )
    assert watch.items_per_second is None
    clock.now += 30  # compiling
    watch.step()
    for _ in range(4):
        watch.waiting(lambda: setattr(clock, "now", clock.now + 0.5))
        clock.now += 1.5
        watch.step()
    watch.interrupted()
    clock.now += 10  # scoring
    watch.step()
    clock.now += 2.0
    watch.step()
    readings = watch.readings()
    assert readings["tokens_per_second"] == pytest.approx(500)
    wall = 30 + 4 * 2 + 10 + 2
    assert readings["goodput"] == pytest.approx(7 * 2 / wall)
    assert readings["data_wait"] == pytest.approx(2 / wall)
    assert readings["mfu"] == pytest.approx(500 * flops / (4 * 197e12))


def test_a_step_after_an_interruption_is_no_longer_than_it_can_have_been():
    """The mean of few steps may be far from it, and goodput is a share."""
    clock = Clock()
    watch = Stopwatch(items_per_step=8, clock=clock)
    for seconds in (0.5, 10):
        clock.now += seconds
        watch.step()
    for _ in range(3):
        watch.interrupted()
        watch.interrupted()  # evaluated, then saved
        clock.now += 1
        watch.step()
    assert watch.readings()["goodput"] == pytest.approx(1)


def test_a_slow_step_does_not_change_the_rate():
    clock = Clock()
    watch = Stopwatch(items_per_step=8, flops_per_step=1e9, devices=jax.devices()[:1], clock=clock)
    for seconds in (1, 1, 1, 1, 100, 1, 1):
        clock.now += seconds
        watch.step()
    assert watch.items_per_second == pytest.approx(8)
    assert watch.readings()["mfu"] is None  # a CPU's peak is not published
    assert (watch.readings()["memory_bytes"] or 0) > 1e7


def test_another_unit():
    clock = Clock()
    watch = Stopwatch(items_per_step=6, unit="frames", clock=clock)
    for _ in range(3):
        clock.now += 2
        watch.step()
    readings = watch.readings()
    assert readings["frames_per_second"] == pytest.approx(3)
    assert readings["mfu"] is None  # nothing is known of its FLOPs
