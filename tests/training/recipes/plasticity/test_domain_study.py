# SPDX-License-Identifier: Apache-2.0
"""The stream of domains: its model, its languages, and what a phase starts from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.counts import parameter_count
from tests.drawn import normal
from training.recipes.experiment import Cell
from training.recipes.plasticity.domain_study import (
    DOMAINS,
    DomainArm,
    conclude_domains,
    domain_arms,
    drawn,
    griffin,
    read_text,
    train_domains,
)


def test_the_model_has_three_million_parameters():
    assert 2.5e6 < parameter_count(DomainArm().config()) < 3.5e6
    assert list(DOMAINS.arms)[:5] == [
        *("nothing", "norm", "decay", "norm and decay", "optimizer reset")
    ]


def test_norms_stand_on_both_branches_of_the_mlp():
    config = DomainArm(width=16, layers=1, length=8).config()
    model = griffin(config, jax.random.key(0), normed=True)
    x_BTD = normal(1, (2, 3, 16))
    for name in ("ffw_gate", "ffw_up"):
        z_BTF = getattr(model.blocks[0].mlp_block, name)(x_BTD)
        np.testing.assert_allclose(jnp.square(z_BTF).mean(-1), 1, atol=1e-3)


def test_rows_are_the_text_under_a_cipher(tmp_path):
    for name, text in (("a", "abcdefgh" * 4), ("b", "x" * 20)):
        (tmp_path / f"{name}.txt").write_text(text)
    text_UL = read_text([f"text:{tmp_path}/a.txt", f"text:{tmp_path}/b.txt"])
    assert text_UL.shape == (2, 20)
    assert bytes(text_UL[0]).startswith(b"abcdefgh")
    cipher = jnp.arange(256)[::-1]
    batch = drawn(jnp.asarray(text_UL[0]), cipher, jax.random.key(0), 3, 5)
    np.testing.assert_array_equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
    steps = np.diff(255 - np.asarray(batch.tokens_BT)) % 8
    assert (steps == 1).all()  # the text's order, read through the cipher


def test_phases_are_learned_and_a_fresh_model_starts_each_anew(tmp_path):
    (tmp_path / "a.txt").write_text("the same words again and again " * 20)
    arm = DomainArm(
        width=16,
        layers=1,
        phases=2,
        steps=30,
        batch_size=4,
        length=8,
        learning_rate=1e-2,
        everything=True,
        sources=(f"text:{tmp_path}/a.txt",),
    )
    idle = dataclasses.replace(arm, learning_rate=0.0)  # one program with the other
    numbers = {c.arm: n for c, n in train_domains([Cell("arm", arm, 0), Cell("idle", idle, 0)])}
    assert max(numbers["arm"]["loss"]) < min(numbers["idle"]["loss"]) - 0.2
    first, second = numbers["idle"]["weights_norm"]
    assert first != second  # without a step: another model
    assert first == pytest.approx(second, rel=0.2)


def test_the_excess_is_over_a_fresh_model_of_its_kind():
    arms = {
        name: [{"loss": [3.0 + bonus * phase for phase in range(8)], "weights_norm": [1.0] * 8}] * 2
        for name, bonus in zip(domain_arms(DomainArm()), (0.1, 0, 0, 0, 0, 0, -0.1), strict=True)
    }
    concluded = conclude_domains(arms)
    assert "nothing: +0.650 (change +0.500)" in concluded.verdict
    assert "decay: +0.000" in concluded.verdict
    assert "norm: +0.650" in concluded.verdict
