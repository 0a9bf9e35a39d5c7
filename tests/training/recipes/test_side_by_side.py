# SPDX-License-Identifier: Apache-2.0
"""Choices in two parts: the floats, which may be traced, and all else, which shapes a program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.recipes.experiment import Cell
from training.recipes.side_by_side import batched, join, numbers_of, programs, seeds_of, split


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: str = "a"


@dataclasses.dataclass(frozen=True)
class Choices:
    inner: Inner = Inner()
    steps: int = 3
    decay: float = 0.5
    widths: tuple[int, ...] = (1, 2)


def test_floats_are_numbers_and_all_else_is_structure():
    choices = Choices(Inner(0.25), decay=2.0)
    structure, numbers = split(choices)
    assert numbers == [0.25, 2.0]
    assert structure == Choices(Inner(0.0), decay=0.0)
    assert join(structure, numbers) == choices


def test_cells_of_one_structure_are_one_program():
    cells = [
        Cell("x", Choices(), 0),
        Cell("z", Choices(Inner(kind="b")), 0),
        Cell("y", Choices(Inner(0.3), decay=1.0), 0),
        Cell("x", Choices(), 1),
    ]
    group, other = programs(cells)
    assert [(cell.arm, cell.seed) for cell in group] == [("x", 0), ("y", 0), ("x", 1)]
    assert [cell.arm for cell in other] == ["z"]
    structure, _ = split(group[0].choices)

    def sums(numbers: jax.Array, seed: jax.Array) -> jax.Array:
        choices = join(structure, numbers)
        return choices.inner.rate + choices.decay * seed.astype(jnp.float32) + len(choices.widths)

    vmapped = jax.vmap(sums)(numbers_of(group), seeds_of(group))
    np.testing.assert_allclose(vmapped, [2.1, 2.3, 2.6], rtol=1e-6)


@pytest.mark.parametrize("large", [False, True])
def test_one_by_one_is_as_side_by_side(large: bool):
    def step(tree: dict[str, jax.Array], shift: float, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tree["a"] @ x + shift, tree["b"].sum() * x

    tree = {"a": jnp.arange(24.0).reshape(3, 2, 4), "b": jnp.arange(6.0).reshape(3, 2)}
    args = tree, 0.5, jnp.arange(4.0)
    program = jax.jit(batched(step, (0, None, None), large=large))
    assert ("scan" in str(jax.make_jaxpr(program)(*args))) == large
    for got, expected in zip(program(*args), jax.vmap(step, (0, None, None))(*args), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
