# SPDX-License-Identifier: Apache-2.0
"""Each op on a sequence cut over devices equals the op on the whole, with its gradients.

Two meshes of the eight fake devices: the sequence over all of them, and data x sequence x tensor.
Documents begin on, just before and just after the cuts, and the parts are shorter than the window.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from kernels import sequence
from kernels.conv import causal_conv
from kernels.linear_scan import linear_scan
from kernels.local_attention import local_attention
from kernels.rg_lru import rg_lru
from tests.kernels.compare import draw, goes_red, runnable, same, value_and_gradients

BATCH, TIME, WIDTH, WINDOW = 2, 48, 12, 9
MESHES = {"sequence": (1, 8, 1), "mixed": (2, 2, 2)}  # data, sequence, tensor
LINE, STATE, CHANNEL = P("data", "sequence", "tensor"), P("data", "tensor"), P("tensor")
TOKEN, ROW = P("data", "sequence"), P("data")


def mesh(name: str) -> Mesh:
    axes = ("data", "sequence", "tensor")
    return jax.make_mesh(MESHES[name], axes, axis_types=(AxisType.Auto,) * 3)


def positions(shards: int, start: int = 3) -> np.ndarray:
    """Row 0: documents that start one before, on and one after a cut, and one of one token. Row 1
    goes on with the state's document, and ends in padding that begins inside a part. start: the
    tokens of the state."""
    part = TIME // shards
    starts = (
        {part - 1, part, 2 * part, 3 * part + 1, 3 * part + 2} if shards > 2 else {part - 1, part}
    )
    rows = np.zeros((2, TIME), np.int32)
    count = start
    for t in range(TIME):
        count = 0 if t in starts else count
        rows[0, t], rows[1, t] = count, start + t
        count += 1
    rows[1, TIME - part - 1 :] = -1
    return rows


def check_scan(name, *, reverse=False, implementation=None, **options):
    arrays = [draw(0, BATCH, TIME, WIDTH), jax.nn.sigmoid(draw(1, BATCH, TIME, WIDTH) + 2)]
    arrays.append(draw(2, BATCH, WIDTH))
    cut = functools.partial(linear_scan, axis="sequence", implementation=implementation)
    sharded = jax.shard_map(
        functools.partial(cut, reverse=reverse),
        mesh=mesh(name),
        in_specs=(LINE, LINE, STATE),
        out_specs=(LINE, STATE),
        **options,
    )
    with runnable(implementation):
        got = value_and_gradients(sharded, *arrays)
    same(got, value_and_gradients(functools.partial(linear_scan, reverse=reverse), *arrays))


def check_rg_lru(name, *, implementation=None, **options):
    where = positions(MESHES[name][1])
    arrays = [draw(i, BATCH, TIME, WIDTH) for i in range(3)]
    arrays += [draw(4, WIDTH) - 6, draw(5, BATCH, WIDTH)]  # slow decay: all parts count

    def op(function, **options):
        def run(where, *args):
            h, last = function(*args, reset_BT=where == 0, real_BT=where >= 0, **options)
            return jnp.where((where >= 0)[..., None], h, 0), last

        return run

    sharded = jax.shard_map(
        op(rg_lru, axis="sequence", implementation=implementation),
        mesh=mesh(name),
        in_specs=(TOKEN, LINE, LINE, LINE, CHANNEL, STATE),
        out_specs=(LINE, STATE),
        **options,
    )
    with runnable(implementation):
        got = value_and_gradients(functools.partial(sharded, where), *arrays)
    same(got, value_and_gradients(functools.partial(op(rg_lru), where), *arrays))


def check_attention(name, *, ring=True, **options):
    where = positions(MESHES[name][1], 3 if ring else 0)
    start = jnp.asarray([3, 3], jnp.int32)
    arrays = [draw(0, BATCH, TIME, 4, 8), draw(1, BATCH, TIME, 8), draw(2, BATCH, TIME, 8)]
    if ring:
        arrays += [draw(3, BATCH, WINDOW, 8), draw(4, BATCH, WINDOW, 8)]

    def op(function, **options):
        def run(where, start, *args):
            out = function(
                *args, window=WINDOW, positions_BT=where, start_position_B=start, **options
            )
            return jnp.where((where >= 0)[..., None, None], out, 0)

        return run

    q, k, rings = P("data", "sequence", "tensor"), P("data", "sequence"), P("data")
    sharded = jax.shard_map(
        op(local_attention, axis="sequence"),
        mesh=mesh(name),
        in_specs=(TOKEN, ROW, q, k, k, *[rings] * (2 * ring)),
        out_specs=q,
        **options,
    )
    same(
        value_and_gradients(functools.partial(sharded, where, start), *arrays),
        value_and_gradients(functools.partial(op(local_attention), where, start), *arrays),
    )


def check_conv(name, **options):
    where = positions(MESHES[name][1])
    arrays = [
        draw(0, BATCH, TIME, WIDTH),
        draw(1, 4, WIDTH),
        draw(2, WIDTH),
        draw(3, BATCH, 3, WIDTH),
    ]
    sharded = jax.shard_map(
        lambda where, x, w, b, past: causal_conv(x, w, b, past, where, axis="sequence"),
        mesh=mesh(name),
        in_specs=(TOKEN, LINE, P(None, "tensor"), CHANNEL, P("data", None, "tensor")),
        out_specs=LINE,
        **options,
    )
    same(
        value_and_gradients(functools.partial(sharded, where), *arrays),
        value_and_gradients(
            lambda x, w, b, past: causal_conv(x, w, b, past, jnp.asarray(where)), *arrays
        ),
    )


CHECKS = {
    "scan": check_scan,
    "rg_lru": check_rg_lru,
    "attention": check_attention,
    "conv": check_conv,
}


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", sorted(MESHES))
@pytest.mark.parametrize("op", sorted(CHECKS))
def test_a_sequence_over_devices(op, name, check_vma):
    CHECKS[op](name, check_vma=check_vma)


reversed_scan = functools.partial(check_scan, reverse=True)


@pytest.mark.parametrize("name", sorted(MESHES))
def test_a_reversed_scan(name):
    reversed_scan(name)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "mixed")) for name in sorted(MESHES)],
)
@pytest.mark.parametrize("check", [check_scan, check_rg_lru, reversed_scan])
def test_the_tpu_kernels(check, name):
    check(name, implementation="tpu")


@pytest.mark.parametrize("check", [check_scan, check_rg_lru])
def test_the_reference_is_of_whole_sequences(check):
    with pytest.raises(ValueError, match="implementation 'reference' is of whole sequences"):
        check("sequence", implementation="reference")


def test_attention_without_a_past():
    check_attention("sequence", ring=False)


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize("op", sorted(CHECKS))
def test_it_goes_red_when_nothing_crosses_the_cuts(op, monkeypatch):
    """Neither a carry nor a halo."""
    right = sequence._from_before
    monkeypatch.setattr(
        sequence, "_from_before", lambda x, *args: jax.tree.map(lambda v: 0 * v, right(x, *args))
    )
    goes_red(CHECKS[op], "sequence")
