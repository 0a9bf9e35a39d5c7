# SPDX-License-Identifier: Apache-2.0
"""The matrix products of a compiled program: how many there are, and their FLOPs, loops counted as
often as they run.

On a TPU a product is a convolution, mostly one without spatial dimensions; a batch of products is
one with a spatial dimension whose padding leaves one tap an output. What kernels compute inside is
not seen.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from training.planning import hlo


class Product(NamedTuple):
    """One matrix product: how often it runs, FLOPs (two a multiply-add) each time, and whether the
    compiler itself computes it again, because memory is short."""

    times: int
    flops: float
    repeated: bool


def products(module: hlo.Module) -> list[Product]:
    """Every matrix product of the program."""

    def inside(name: str, times: int, repeated: bool) -> Iterator[Product]:
        here = module.computations[name]
        for instruction in here.values():
            again = repeated or ".remat" in instruction.name
            if instruction.op in ("dot", "convolution"):
                yield Product(times, _flops(here, instruction), again)
            elif instruction.op in ("fusion", "async-start"):
                for inner in hlo.called(instruction, "calls"):
                    yield from inside(inner, times, again)

    return [one for name, times in hlo.runs(module).items() for one in inside(name, times, False)]


def flops(module: hlo.Module) -> tuple[float, float]:
    """FLOPs of all matrix products of the program, and of those of them that the compiler may have
    added: it computes some again where a program would not fit otherwise."""
    every = products(module)
    return (
        sum(product.times * product.flops for product in every),
        sum(product.times * product.flops for product in every if product.repeated),
    )


def shape_of(type_: str) -> list[int]:
    """The sizes of the first array in a type."""
    array = hlo.ARRAY.search(type_)
    if array is None:
        raise ValueError(f"no array: {type_!r}")
    return [int(n) for n in array[2].split(",") if n]


def _flops(here: dict[str, hlo.Instruction], instruction: hlo.Instruction) -> float:
    out = shape_of(instruction.type)
    lhs, rhs = (shape_of(here[name].type) for name in instruction.operands[:2])
    if instruction.op == "dot":
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        if summed is None:
            raise ValueError(f"a product without what it sums over: {instruction.attributes[:200]}")
        return 2.0 * math.prod(out) * math.prod(lhs[int(d)] for d in summed[1].split(",") if d)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {instruction.attributes[:200]}")
    if groups := re.search(r"batch_group_count=(\d+)", instruction.attributes):
        raise ValueError(f"a convolution in {groups[1]} groups of the batch")
    pairs = 2.0 * rhs[labels[2].index("i")]
    for kind in "bf":
        pairs *= out[labels[3].index(kind)]
    for dimension in sorted(set(labels[3]) - {"b", "f"}):
        extents = [
            sizes[labels[n].index(dimension)] for n, sizes in enumerate((lhs, rhs, out), start=1)
        ]
        pairs *= _taps(instruction.attributes, int(dimension), *extents)
    return pairs


def _taps(attributes: str, dimension: int, lhs: int, rhs: int, out: int) -> int:
    """Pairs of an output and a tap, in one spatial dimension, that read an input and no padding."""

    def window(name: str, default: str) -> str:
        given = re.search(rf"window=\{{[^}}]*?\b{name}=([\w\-]+)", attributes)
        return given[1].split("x")[dimension] if given else default

    low = int(window("pad", "0_0").split("_")[0])
    stride, dilation = int(window("stride", "1")), int(window("rhs_dilate", "1"))
    between = int(window("lhs_dilate", "1"))
    where = np.arange(out)[:, None] * stride + np.arange(rhs)[None] * dilation - low
    real = (where >= 0) & (where % between == 0) & (where // between < lhs)
    return int(real.sum())
