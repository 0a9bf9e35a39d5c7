# SPDX-License-Identifier: Apache-2.0
"""Time per token: which cells there are, what a model is given in them, and what is reported."""

import dataclasses

import jax
import numpy as np
import pytest

from eval import throughput
from eval.throughput import Cell, Measured, best_batches, cells, measure, row
from recurrentgemma.counts import state_bytes
from recurrentgemma.errors import UserError
from recurrentgemma.generation.decode import CAPACITY
from recurrentgemma.presets import HAWK, MQA, tiny
from tests.drawn import untrained

SMALL = dataclasses.replace(
    tiny(),
    vocab_size=32,
    width=16,
    mlp_width=16,
    num_layers=1,
    lru_width=16,
    num_gate_blocks=1,
    num_heads=1,
    head_dim=16,
    context_length=8,
)


@pytest.fixture(scope="module")
def models(compiled_quickly: None) -> list[Measured]:
    configs = {"hawk": HAWK, "mqa": MQA}
    return [
        Measured.of(name, untrained(dataclasses.replace(SMALL, pattern=p)))
        for name, p in configs.items()
    ]


def test_cells_of_both_figures():
    wanted = cells((0, 64), (512,), (1, 4))
    assert [(cell.batch, cell.context, cell.answer) for cell in wanted] == [
        *((1, 0, 0), (4, 0, 0), (1, 64, 0), (4, 64, 0)),
        *((1, 0, 512), (4, 0, 512)),
    ]
    assert wanted[2].places == [64]
    assert wanted[4].places == [0, 128, 256, 384]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((-1,), (), (1,)), "context=-1: expected at least 0"),
        (((0,), (0,), (1,)), "answer=0: expected at least 1"),
        (((0,), (), (1, 0)), "batch=0: expected at least 1"),
        (((0,), (), ()), "batch=None: expected at least 1"),
    ],
)
def test_cells_that_cannot_be(numbers, message):
    with pytest.raises(UserError, match=message):
        cells(*numbers)


def test_every_model_is_timed_where_it_should_be(models, monkeypatch):
    """The models take turns; a cache is as long as the cell needs; a model whose state has a size
    of its own is compiled once."""
    begun = []
    begin = throughput._begin

    def watched(config, batch, place):
        begun.append((config.pattern, config.context_length, batch, place))
        return begin(config, batch, place)

    monkeypatch.setattr(throughput, "_begin", watched)
    seconds = measure(models, Cell(2, 64), tokens=4, rounds=2)
    assert {name: len(taken) for name, taken in seconds.items()} == {"hawk": 2, "mqa": 2}
    assert min(map(min, seconds.values())) > 0
    assert begun == [(HAWK, 8, 2, 64), (MQA, 64 + 4 * 3, 2, 64)]
    hawk = models[0].generator(models[0].config)
    measure(models, Cell(2, 0, 40), tokens=4, rounds=2)
    assert models[0].generator(models[0].config) is hawk
    assert begun[-4:] == [(MQA, 40, 2, place) for place in (0, 10, 20, 28)]
    with pytest.raises(UserError, match=f"tokens=257: expected 1 to {CAPACITY}"):
        measure(models, Cell(1, 0), tokens=257)


def test_a_place_is_where_the_tokens_before_it_end(models):
    begun = throughput._begin(models[1].config, 3, 5)
    assert begun.state.position_B.tolist() == [5, 5, 5]
    assert all(np.abs(np.asarray(x)).max() > 0 for x in jax.tree.leaves(begun.state.layers))


def test_a_row_has_what_a_step_must_read(models):
    cell = Cell(4, 64)
    numbers = row(models[1], cell, [0.3, 0.1, 0.2])
    assert numbers["milliseconds"] == pytest.approx(200.0)
    assert (numbers["least"], numbers["most"]) == (pytest.approx(100.0), pytest.approx(300.0))
    assert numbers["tokens_per_second"] == pytest.approx(20.0)
    held = dataclasses.replace(models[1].config, context_length=64)
    assert numbers["state_bytes"] == 4 * state_bytes(held)
    short = row(models[1], Cell(4, 32), [0.1])
    assert short["state_bytes"] < numbers["state_bytes"]


def test_the_best_batch_of_an_answer():
    rows = [
        {"model": "a", "answer": 8, "batch": 1, "tokens_per_second": 10.0},
        {"model": "a", "answer": 8, "batch": 4, "tokens_per_second": 30.0},
        {"model": "a", "answer": 8, "batch": 16, "tokens_per_second": 20.0},
        {"model": "a", "answer": 0, "batch": 1, "tokens_per_second": 90.0},
    ]
    assert [one["batch"] for one in best_batches(rows)] == [4]
