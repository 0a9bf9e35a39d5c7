# SPDX-License-Identifier: Apache-2.0
"""Arms that differ in numbers alone, and their seeds, as one vmapped program.

    for group in programs(cells):                       # same structure: one program
        structure, _ = split(group[0].choices)
        def run(numbers_A, seed):
            choices = join(structure, numbers_A)        # its floats are traced
            ...
        jax.vmap(run)(numbers_of(group), seeds_of(group))

The floats of an arm's choices, however nested, are its numbers; all else (widths, names, counts,
switches) is its structure, which shapes the program. Legend: C cells, A numbers.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from training.recipes.experiment import Cell

T = TypeVar("T")


def split(choices: T) -> tuple[T, list[float]]:
    """The choices with every float 0.0, and the floats in order of the fields."""
    floats = list(_floats(choices))
    return join(choices, [0.0] * len(floats)), floats


def join(structure: T, numbers: Any) -> T:
    """The choices with these floats, which may be traced, in order of the fields."""
    numbers = iter(numbers)

    def replaced(value: Any) -> Any:
        if isinstance(value, float):
            return next(numbers)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: replaced(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        return value

    return replaced(structure)


def programs(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one structure together, in order of the first."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(split(cell.choices)[0], []).append(cell)
    return list(groups.values())


def numbers_of(cells: Sequence[Cell]) -> jnp.ndarray:
    """[C, A], float32."""
    rows = [split(cell.choices)[1] for cell in cells]
    return jnp.asarray(np.array(rows, np.float32).reshape(len(cells), -1))


def seeds_of(cells: Sequence[Cell]) -> jnp.ndarray:
    """[C], uint32."""
    return jnp.asarray([cell.seed for cell in cells], jnp.uint32)


def batched(function: Callable, in_axes: Sequence[int | None], *, large: bool) -> Callable:
    """jax.vmap(function, in_axes), axes 0 or None.

    On CPUs a `large` one, such as of a network of convolutions, runs for one after the other in the
    same program, and all of it takes less time so, probably for a core's cache (docs/log.md).
    """
    if jax.default_backend() != "cpu" or not large:
        return jax.vmap(function, tuple(in_axes))

    def one_by_one(*args: Any) -> Any:
        stacked = [arg for arg, axis in zip(args, in_axes, strict=True) if axis is not None]

        def one(given: list[Any]) -> Any:
            of_one = iter(given)
            return function(
                *(
                    arg if axis is None else next(of_one)
                    for arg, axis in zip(args, in_axes, strict=True)
                )
            )

        return jax.lax.map(one, stacked)

    return one_by_one


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _floats(getattr(value, field.name))
