# SPDX-License-Identifier: Apache-2.0
"""Every TPU kernel through the real TPU compiler, without a TPU."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from kernels.linear_scan import linear_scan
from kernels.local_attention import local_attention
from kernels.measure import tpu_compile
from kernels.rg_lru import rg_lru
from tests.compiling import compiling, kept_in

pytestmark = pytest.mark.skipif(
    tpu_compile.library() is None,
    reason="libtpu is not in this environment: `make venv` puts it there",
)
TOPOLOGIES = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
WIDTHS = {"2b": 2560, "9b": 4096}
HEADS = {"2b": 10, "9b": 16}
DTYPES = ("bfloat16", "float32")
LINE, STATE = P("data", "sequence", "tensor"), P("data", "tensor")
TOKEN = P("data", "sequence")


def shape(*sizes: int, dtype="float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))


def gradients(function):
    """Outputs and gradients of all floating inputs."""

    def run(*args):
        floats = [i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating)]

        def of(*given):
            full = list(args)
            for i, x in zip(floats, given, strict=True):
                full[i] = x
            return function(*full)

        out, pullback = jax.vjp(of, *[args[i] for i in floats])
        return out, pullback(jax.tree.map(lambda x: 2 * x, out))

    return run


def recurrence(x, input_gate, a_gate, a_param, h0, positions, *, function=rg_lru, **options):
    marks = {"reset_BT": positions == 0, "real_BT": positions >= 0}
    return function(x, input_gate, a_gate, a_param, h0, **marks, **options)


def recurrence_shapes(batch: int, time: int, width: int, dtype: str):
    stream = shape(batch, time, width, dtype=dtype)
    return (
        *(stream, stream, stream, shape(width), shape(batch, width)),
        shape(batch, time, dtype="int32"),
    )


def attention(q, k, v, positions, *, function=local_attention, **options):
    return function(q, k, v, window=2048, positions_BT=positions, **options)


def attention_shapes(batch: int, time: int, heads: int, dtype: str):
    key = shape(batch, time, 256, dtype=dtype)
    return (
        *(shape(batch, time, heads, 256, dtype=dtype), key, key),
        shape(batch, time, dtype="int32"),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", sorted(WIDTHS))
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_recurrence_moves_what_it_must(topology, model, dtype):
    """Forward and backward: the bytes of their streams, and 5% for the documents' marks."""
    shapes = recurrence_shapes(1, 8192, WIDTHS[model], dtype)
    forward, backward = tpu_compile.compile_for(topology, gradients(recurrence), *shapes).kernels
    stream = 8192 * WIDTHS[model] * jnp.dtype(dtype).itemsize
    assert forward.name == "rg_lru_forward"
    assert backward.name == "rg_lru_backward"
    assert 4 * stream <= forward.moved <= 1.05 * 4 * stream
    assert 8 * stream <= backward.moved <= 1.05 * 8 * stream
    assert max(forward.on_chip, backward.on_chip) < 16 * 2**20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_linear_scan(topology, dtype):
    stream = shape(1, 8192, 2560, dtype=dtype)
    program = tpu_compile.compile_for(
        topology, gradients(linear_scan), stream, stream, shape(1, 2560)
    )
    assert [kernel.name for kernel in program.kernels] == ["linear_scan"] * 2


@pytest.mark.parametrize(
    ("topology", "model", "dtype"),
    [
        # Each topology, model and dtype once; the others are for those who wait.
        pytest.param(
            *case, marks=[pytest.mark.slow] * (places not in ((0, 0, 0), (1, 1, 1), (2, 0, 1)))
        )
        for places, case in zip(
            itertools.product(range(3), range(2), range(2)),
            itertools.product(TOPOLOGIES, sorted(HEADS), DTYPES),
            strict=True,
        )
    ],
)
def test_local_attention(topology, model, dtype):
    shapes = attention_shapes(1, 8192, HEADS[model], dtype)
    program = tpu_compile.compile_for(topology, gradients(attention), *shapes)
    assert len(program.kernels) == 3  # forward, dq, dkv
    assert "8192,8192" not in program.text  # no T x T array
    assert program.temporary < 16 * sum(math.prod(x.shape) for x in shapes)


@pytest.mark.parametrize("time", [1, 2, 63, 257])
@pytest.mark.parametrize("width", [1, 96, 500])
def test_odd_shapes(time, width):
    shapes = recurrence_shapes(2, time, width, "bfloat16")
    function = gradients(functools.partial(recurrence, implementation="tpu"))
    assert len(tpu_compile.compile_for("v5e:2x2", function, *shapes).kernels) == 2


def sharded(function, in_specs, out_specs, mesh):
    return jax.shard_map(
        functools.partial(function, axis="sequence"),
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,  # splash attention does not say over which axes its outputs differ
    )


def test_sharded_over_sixteen_devices():
    """The recurrence exchanges states of [B, E] and nothing that grows with T; attention exchanges
    its window."""
    mesh = tpu_compile.line_of("v5e:4x4", data=2, sequence=4, tensor=2)
    rows = recurrence_shapes(2, 8192, 2560, "bfloat16")
    specs = (LINE, LINE, LINE, P("tensor"), STATE, TOKEN)
    cut = functools.partial(recurrence, function=rg_lru)
    program = tpu_compile.compile_for(
        "v5e:4x4",
        *(gradients(sharded(cut, specs, (LINE, STATE), mesh)), *rows),
        mesh=mesh,
        specs=specs,
    )
    names = sorted(kernel.name for kernel in program.kernels)
    assert names == [
        *("rg_lru_backward", "rg_lru_effect", "rg_lru_effect_backward", "rg_lru_forward")
    ]
    assert program.collectives
    assert max(size for _, size in program.collectives) < 2**20
    heads = P("data", "sequence", "tensor")
    specs = (heads, TOKEN, TOKEN, TOKEN)
    cut = functools.partial(attention, function=local_attention)
    program = tpu_compile.compile_for(
        "v5e:4x4",
        *(
            gradients(sharded(cut, specs, heads, mesh)),
            *attention_shapes(2, 16_384, 10, "bfloat16"),
        ),
        mesh=mesh,
        specs=specs,
    )
    assert {kind for kind, _ in program.collectives} <= {"collective-permute", "all-reduce"}


def test_linear_scan_sharded():
    mesh = tpu_compile.line_of("v5e:4x4", data=1, sequence=16, tensor=1)
    stream = shape(1, 131_072, 2560, dtype="bfloat16")
    function = sharded(linear_scan, (LINE, LINE, STATE), (LINE, STATE), mesh)
    program = tpu_compile.compile_for(
        "v5e:4x4",
        *(gradients(function), stream, stream, shape(1, 2560)),
        mesh=mesh,
        specs=(LINE, LINE, STATE),
    )
    assert len(program.kernels) == 4  # effect and scan, each way


def moves(program: tpu_compile.Program, least: int) -> list[str]:
    """Copies, transposes and conversions of arrays of that many bytes, on their own."""
    entry = program.text[program.text.index("ENTRY") :]
    arrays = re.findall(r"= (\w+\[[^ ]*) (?:copy|transpose|convert)\(", entry)
    return [array for array in arrays if tpu_compile.array_bytes(array) >= least]


def test_no_copy_of_a_stream_around_a_kernel():
    """A product before and after the recurrence, as in the model: nothing of its size is copied,
    transposed or converted on the way in or out."""

    def block(x_BTD, w_DE, positions, a_param):
        wide = x_BTD @ w_DE
        h, _ = rg_lru(wide, wide * 2, wide + 1, a_param, reset_BT=positions == 0)
        return h @ w_DE.T

    program = tpu_compile.compile_for(
        *("v5e:2x2", gradients(block), shape(1, 8192, 2560, dtype="bfloat16")),
        *(shape(2560, 2560, dtype="bfloat16"), shape(1, 8192, dtype="int32"), shape(2560)),
    )
    assert moves(program, 8192 * 2560 * 2) == []


@pytest.mark.parametrize(
    "size",
    [64, 96, *(pytest.param(size, marks=pytest.mark.slow) for size in (128, 192)), 256],
)
def test_head_sizes_behind_a_window(size):
    """A chunk of 300 tokens after a ring of 70, forward and backward."""

    def attend(q, k, v, ring_k, ring_v, positions):
        start = positions[:, 0]
        return local_attention(
            *(q, k, v, ring_k, ring_v),
            window=70,
            positions_BT=positions,
            start_position_B=start,
        )

    ring = shape(2, 70, size, dtype="bfloat16")
    key = shape(2, 300, size, dtype="bfloat16")
    program = tpu_compile.compile_for(
        *("v5e:2x2", gradients(attend), shape(2, 300, 4, size, dtype="bfloat16"), key, key),
        *(ring, ring, shape(2, 300, dtype="int32")),
    )
    assert len(program.kernels) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("backward", "most"), [(False, 1), (True, 2)])
def test_copies_around_attention(backward: bool, most: int):
    """The projections before and after it, as in the model. Splash attention has heads outermost:
    its output is turned once for the projection, and dq for the gradient of the weight."""

    def block(x_BTD, w_DQ, w_DK, positions):
        q = (x_BTD @ w_DQ).reshape(1, time, 10, 256)
        k, v = x_BTD @ w_DK, (2 * x_BTD) @ w_DK
        out = local_attention(q, k, v, window=1024, positions_BT=positions)
        return out.reshape(1, time, 2560) @ w_DQ.T

    time = 4096
    shapes = (
        *(shape(1, time, 2560, dtype="bfloat16"), shape(2560, 2560, dtype="bfloat16")),
        *(shape(2560, 256, dtype="bfloat16"), shape(1, time, dtype="int32")),
    )
    function = gradients(block) if backward else block
    program = tpu_compile.compile_for("v5e:2x2", function, *shapes)
    assert len(moves(program, time * 2560 * 2)) <= most


def test_the_cache_of_compiled_programs_is_not_asked(tmp_path):
    """Also where it is in use: what is compiled for a device that is not here would be written
    there, and cannot be read back."""
    with compiling(**kept_in(tmp_path)):
        jax.jit(lambda x: x + 1)(jnp.zeros(3)).block_until_ready()
        before = set(tmp_path.iterdir())
        assert before
        for _ in range(2):  # a second one would read what the first one wrote
            tpu_compile.compile_for("v5e:2x2", lambda x: x * 2, shape(8, 128))
            jax.clear_caches()
        assert set(tmp_path.iterdir()) == before
        jax.jit(lambda x: x + 2)(jnp.zeros(3)).block_until_ready()
        assert set(tmp_path.iterdir()) > before
