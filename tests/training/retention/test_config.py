# SPDX-License-Identifier: Apache-2.0
"""RetainConfig: what goes together, and what follows from it."""

import dataclasses
import os

import pytest

from recurrentgemma.errors import UserError
from training.configs import TrainConfig
from training.retention.config import RetainConfig

DATA = ("text:kept.txt",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "distil"}, "expected one of none, kl, replay"),
        ({"data": DATA}, "retain.data=.* has no effect without a method"),
        ({"weight": 0.5}, "retain.weight=0.5 has no effect without a method"),
        ({"method": "ewc"}, "ewc estimates Fisher information on what is to be retained: give"),
        ({"method": "replay"}, "replay learns from what is to be retained, too: give retain.data"),
        ({"method": "kl", "batch_size": 2}, "batch_size=2 has no effect but with kl and replay"),
        ({"method": "ewc", "data": DATA, "batch_size": 2}, "batch_size=2 has no effect but"),
        ({"method": "l2", "fisher": "empirical"}, "fisher='empirical' has no effect but with ewc"),
        (
            {"method": "ewc", "fisher_from": "x", "fisher_gradients": 9},
            "fisher_gradients=9 has no effect with retain.fisher_from",
        ),
        ({"method": "kl", "weight": -1.0}, "retain: a weight from -1.0 down to 0.0"),
        ({"method": "kl", "weight": float("nan")}, "retain: a weight from nan"),
        ({"method": "kl", "floor": 2.0}, "retain: a weight from 1.0 down to 2.0"),
        ({"method": "kl", "decay": 1.1}, "retain: decay=1.1: expected above 0, and at most 1"),
        ({"method": "kl", "data": ("kept",)}, "'kept'"),
        ({"method": "ewc", "data": DATA, "fisher_gradients": 0}, "of at least 1"),
    ],
)
def test_what_cannot_be(fields, message):
    with pytest.raises(UserError, match=message):
        RetainConfig(**fields)


def test_in_a_run(small: TrainConfig):
    def changed(**fields) -> TrainConfig:
        return dataclasses.replace(small, **fields)

    with pytest.raises(UserError, match=r"retain\.method=kl without init_from: there is no checkp"):
        changed(retain=RetainConfig(method="kl"))
    assert changed(retain=RetainConfig(method="l2")).retain.holds
    retain = RetainConfig(method="replay", data=DATA, batch_size=3)
    with pytest.raises(UserError, match=r"=2 does not divide retain\.batch_size=3; choose a mult"):
        changed(retain=retain, grad_accumulation_steps=2)


def test_what_follows():
    rows = RetainConfig(method="kl", data=DATA, weight=0.75, decay=0.99998, floor=0.33)
    assert (rows.holds, rows.reads_rows, rows.kickstarts) == (True, True, False)
    assert float(rows.schedule.at(10**6)) == pytest.approx(0.33)
    own = RetainConfig(method="kl")
    assert (own.holds, own.reads_rows, own.kickstarts) == (True, False, True)
    measured = RetainConfig(method="kl", data=DATA, weight=0.0)
    assert (measured.holds, measured.reads_rows, measured.kickstarts) == (False,) * 3
    assert rows.with_absolute_paths().data == (f"text:{os.path.abspath('kept.txt')}",)
