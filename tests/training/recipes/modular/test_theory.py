# SPDX-License-Identifier: Apache-2.0
"""Alignment is 1 for the teacher in other coordinates, codes are recovered, and the loss falls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.modular.method import Inner
from training.recipes.modular.support import Support
from training.recipes.modular.theory import (
    Modular,
    TheoryArm,
    alignment,
    decoded,
    decoder,
    draw_codes,
    measured,
    modular_init,
    on_test_tasks,
)

RING = Support(kind="connected", modules=6, hot=2, reach=1)
ARM = TheoryArm(
    support=RING, inputs=6, hidden=4, outputs=2, steps=60, points=16, shots=32, known=1, fit=20
)
MASKS = {"train": jnp.asarray(RING.split(0).train_CLM[:, 0])}


@pytest.fixture(scope="module")
def teacher() -> Modular:
    return modular_init(jax.random.key(3), 6, 6, 4, 2)


def other_coordinates(teacher: Modular, f_MM: jax.Array) -> Modular:
    """The same functions: modules mixed by F, units in another order and scaled."""
    order, scale = jnp.array([2, 0, 3, 1]), jnp.array([0.5, 2.0, 1.0, 3.0])
    theta = jnp.einsum("sm,mih->sih", f_MM, teacher.theta_MIH)[..., order] * scale[None, None]
    return Modular(theta, (teacher.head_HO[order] / scale[:, None]))


def test_alignment_of_the_teacher_itself(teacher):
    """And of the teacher in other coordinates, by the decoder that its codes give."""
    mix = normal(1, (6, 6)) + 2 * jnp.eye(6)
    student = other_coordinates(teacher, mix)
    code_NM = draw_codes(jnp.ones((50, 6)), jax.random.key(2), continuous=True)
    code_NM = code_NM * jax.random.rademacher(jax.random.key(4), code_NM.shape, jnp.float32)
    fast_NM = code_NM @ jnp.linalg.inv(mix)
    x = normal(5, (7, 6))
    np.testing.assert_allclose(
        student.outputs(fast_NM[0], x), teacher.outputs(code_NM[0], x), rtol=1e-3, atol=1e-4
    )
    f_MM = decoder(code_NM, fast_NM)
    assert float(decoded(code_NM, fast_NM, f_MM)) > 0.999
    np.testing.assert_allclose(alignment(teacher, student, f_MM), 1.0, atol=1e-3)
    np.testing.assert_allclose(alignment(teacher, teacher, jnp.eye(6)), 1.0, atol=1e-5)
    stranger = modular_init(jax.random.key(9), 6, 6, 4, 2)
    assert float(alignment(teacher, stranger, jnp.eye(6)).max()) < 0.8


def test_codes():
    masks = jnp.asarray([[1.0, 0, 1, 0], [0, 1, 0, 0]])
    discrete = draw_codes(masks, jax.random.key(0), continuous=False)
    np.testing.assert_allclose(jnp.linalg.norm(discrete, axis=1), 1.0, rtol=1e-6)
    many = draw_codes(jnp.tile(masks, (200, 1)), jax.random.key(0), continuous=True)
    active = np.asarray(many)[np.tile(masks, (200, 1)) > 0]
    assert (many[:, 3] == 0).all()
    assert active.min() >= 0.5
    assert active.max() <= 1.0


def test_a_test_code_is_inferred(teacher):
    """The teacher as its own student: every code is recovered from few points."""
    tested = on_test_tasks(ARM, teacher, teacher, MASKS["train"], jax.random.key(0))
    assert float(tested.error_N.max()) < 1e-4
    np.testing.assert_allclose(tested.fast_N, tested.code_NM, atol=2e-2)


def run(arm: TheoryArm) -> dict:
    return jax.device_get(jax.jit(lambda seed: measured(arm, MASKS, seed))(jnp.uint32(0)))


def test_a_student_learns():
    numbers = run(ARM)
    assert numbers["loss"] < 0.7 * run(dataclasses.replace(ARM, steps=1))["loss"]
    assert set(numbers) == {"loss", "error", "decoding", "alignment", "least_alignment"}
    assert 0 <= numbers["least_alignment"] <= numbers["alignment"] <= 1 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"learner": "read-out"},
        {"codes": "inferred", "tasks": 8, "inner": Inner(steps=5, gradient="first order")},
        {"continuous": True, "draws": 2, "more": 2},
    ],
)
def test_other_students_learn(changes):
    arm = dataclasses.replace(ARM, **changes)
    assert run(arm)["loss"] < run(dataclasses.replace(arm, steps=1))["loss"]


@pytest.mark.slow
def test_connected_support_generalises_and_triangles_do_not():
    out = {}
    for kind in ("connected", "disconnected"):
        support = dataclasses.replace(RING, kind=kind)
        split = support.split(0)
        masks = {
            "train": jnp.asarray(split.train_CLM[:, 0]),
            "out": jnp.asarray(split.out_CLM[:, 0]),
        }
        arm = TheoryArm(support=support)
        out[kind] = jax.device_get(
            jax.jit(lambda seed, arm=arm, masks=masks: measured(arm, masks, seed))(jnp.uint32(0))
        )
    assert out["connected"]["error"]["out"] < 1e-3
    assert out["connected"]["alignment"] > 0.99
    assert out["disconnected"]["error"]["train"] < 1e-3
    assert out["disconnected"]["error"]["out"] > 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wider": 0}, "wider 0.*expected at least 1"),
        ({"draws": 2}, "2 draws of a discrete code are the same"),
        ({"learner": "read-out", "codes": "inferred"}, "expected 'persistent'"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(ARM, **changes)
