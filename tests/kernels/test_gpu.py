# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels: run by Pallas' interpreter against their definitions, lowered for CUDA at the
models' shapes, and (marked gpu) run on a GPU."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from kernels import warpgroup
from kernels.linear_scan import linear_scan
from kernels.linear_scan import vjp as linear_scan_vjp
from kernels.local_attention import local_attention
from kernels.rg_lru import rg_lru
from kernels.rg_lru import vjp as rg_lru_vjp
from tests.kernels.compare import draw, same, value_and_gradients

TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
# All combinations would take minutes in the interpreter: each size meets each dtype.
SIZES = [
    (1, 1, "float32"),
    (1, 96, "bfloat16"),
    pytest.param(2, 500, "float32", marks=pytest.mark.slow),
    pytest.param(63, 96, "float32", marks=pytest.mark.slow),
    (63, 1, "bfloat16"),
    pytest.param(257, 96, "bfloat16", marks=pytest.mark.slow),
]


def interpreted(module, *names: str) -> types.SimpleNamespace:
    """The module's functions, run by the interpreter."""
    interpret = InterpretGPUParams(detect_races=False)
    functions = {n: functools.partial(getattr(module, n), interpret=interpret) for n in names}
    return types.SimpleNamespace(**functions)


@pytest.fixture
def interpreter(monkeypatch):
    """implementation='gpu' works on a CPU, in small tiles: every row takes its time."""
    monkeypatch.setattr(warpgroup, "ROWS", 8)
    monkeypatch.setattr(warpgroup, "GROUP", 4)
    for api, names in (
        (linear_scan_vjp, ("scan", "effect")),
        (rg_lru_vjp, ("forward", "backward", "effect", "effect_backward")),
    ):
        monkeypatch.setitem(api.IMPLEMENTATIONS, "gpu", interpreted(api.gpu, *names))


@pytest.fixture
def short_segments(monkeypatch):
    """Time is cut into segments as short as can be."""
    monkeypatch.setattr(warpgroup, "segment_length", lambda *shape: warpgroup.ROWS)


def check_linear_scan(time: int, width: int, dtype: str, *, reverse: bool) -> None:
    x = draw(0, 2, time, width).astype(dtype)
    a = jax.nn.sigmoid(draw(1, 2, time, width)).astype(dtype)

    def run(implementation, *streams):
        return value_and_gradients(
            lambda *args: linear_scan(*args, reverse=reverse, implementation=implementation),
            *(*streams, draw(2, 2, width)),
        )

    got = run("gpu", x, a)
    same(got, run("reference", x.astype(jnp.float32), a.astype(jnp.float32)), TOLERANCE[dtype])


def check_rg_lru(time: int, width: int, dtype: str, *, padded: bool) -> None:
    """Three rows: one document, several and (padded) none."""
    arrays = [draw(i, 3, time, width).astype(dtype) for i in range(3)]
    reset = np.zeros((3, time), bool)
    reset[:, 0] = True
    reset[1, :: max(time // 5, 1)] = True
    real = np.arange(time)[None] < np.array([[time], [time // 2 + 1], [0]])
    reset[2, 0] = not padded

    def run(implementation, *streams):
        def masked(*args):
            h, last = rg_lru(
                *args,
                reset_BT=jnp.asarray(reset & real if padded else reset),
                real_BT=jnp.asarray(real) if padded else None,
                implementation=implementation,
            )
            return jnp.where(jnp.asarray(real)[..., None], h, 0) if padded else h, last

        return value_and_gradients(masked, *streams, draw(4, width), draw(5, 3, width))

    got = run("gpu", *arrays)
    same(got, run("reference", *[x.astype(jnp.float32) for x in arrays]), TOLERANCE[dtype])
    if padded:  # a row without tokens keeps its state, bit for bit
        np.testing.assert_array_equal(got[0][1][2], draw(5, 3, width)[2])


@pytest.mark.parametrize(("time", "width", "dtype"), SIZES)
def test_linear_scan(interpreter, time, width, dtype):
    check_linear_scan(time, width, dtype, reverse=time % 2 == 0)


def test_dtypes():
    """Outputs have x's dtype, last states are float32."""
    x, h0 = jax.ShapeDtypeStruct((2, 9, 5), jnp.bfloat16), jax.ShapeDtypeStruct((2, 5), jnp.float32)
    a_param = jax.ShapeDtypeStruct((5,), jnp.float32)
    for function, args in ((linear_scan, (x, x, h0)), (rg_lru, (x, x, x, a_param, h0))):
        h, last = jax.eval_shape(functools.partial(function, implementation="gpu"), *args)
        assert (h.shape, h.dtype) == (x.shape, x.dtype)
        assert (last.shape, last.dtype) == (h0.shape, h0.dtype)


@pytest.mark.parametrize(("time", "width", "dtype"), SIZES)
def test_rg_lru(interpreter, time, width, dtype):
    check_rg_lru(time, width, dtype, padded=width == 96)


@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_segments(interpreter, short_segments, reverse):
    dtype = "bfloat16" if reverse else "float32"
    check_linear_scan(20, 5, dtype, reverse=reverse)
    check_rg_lru(20, 5, dtype, padded=not reverse)


@pytest.mark.parametrize(
    ("time", "reverse"), [pytest.param(3, True, marks=pytest.mark.slow), (20, False)]
)
def test_effects(interpreter, short_segments, time, reverse):
    """What a sequence does to a state, alone: for sequences that are cut over devices."""
    gated = [draw(i, 2, time, 5) for i in range(3)]
    reset = jnp.zeros((2, time), bool).at[0, time // 2].set(True)
    real = jnp.ones((2, time), bool).at[1, time // 3 :].set(False)
    scans, lru = linear_scan_vjp.IMPLEMENTATIONS, rg_lru_vjp.IMPLEMENTATIONS
    for call in (
        lambda scan, _: scan.effect(gated[0], jax.nn.sigmoid(gated[1]), reverse),
        lambda _, lru: lru.effect(*gated, draw(4, 5), reset, real),
        lambda _, lru: lru.effect_backward(gated[1], draw(4, 5), reset, real, gated[0]),
    ):
        same(call(scans["gpu"], lru["gpu"]), call(scans["xla"], lru["xla"]))


# Lowering needs no GPU; what Mosaic's own compiler makes of the result does.


def lowered(function, *args) -> str:
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


MODEL_SHAPES = [(8, 2048, 2560), (1, 131072, 2560), (64, 1024, 4096)]


def zeros(shape, dtype) -> list[jax.ShapeDtypeStruct]:
    batch, _, width = shape
    return [
        *[jax.ShapeDtypeStruct(shape, dtype)] * 3,
        jax.ShapeDtypeStruct((width,), jnp.float32),
        jax.ShapeDtypeStruct((batch, width), jnp.float32),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape",
    [MODEL_SHAPES[0], *(pytest.param(s, marks=pytest.mark.slow) for s in MODEL_SHAPES[1:3])],
)
def test_kernels_lower_for_cuda(shape, dtype):
    walks = 2 if shape[0] == 1 else 1  # cut into segments: once for their effects, once for h

    def scan(x, _, a, __, h0):
        return linear_scan(x, a, h0, implementation="gpu")

    def lru(x, i, r, a, h0):
        reset = jnp.zeros(shape[:2], bool)
        return rg_lru(x, i, r, a, h0, reset_BT=reset, real_BT=~reset, implementation="gpu")

    def loss(function):
        return lambda *args: sum(x.astype(jnp.float32).sum() for x in function(*args))

    for function in (scan, lru):
        text = lowered(function, *zeros(shape, dtype))
        assert text.count("stablehlo.custom_call @mosaic_gpu") == walks
        text = lowered(jax.grad(loss(function), (0, 2, 4)), *zeros(shape, dtype))
        assert text.count("stablehlo.custom_call @mosaic_gpu") == 2 * walks


@pytest.mark.parametrize("check_vma", [False, True])
def test_kernels_lower_inside_shard_map(check_vma):
    axes = jax.sharding.PartitionSpec("data")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def scan(x, a, h0):
        return linear_scan(x, a, h0, implementation="gpu")

    over_devices = jax.shard_map(
        scan, mesh=mesh, in_specs=axes, out_specs=axes, check_vma=check_vma
    )
    x, h0 = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 64, 256), (4, 256)))
    gradients = jax.grad(lambda *args: sum(y.sum() for y in over_devices(*args)), (0, 1, 2))
    assert lowered(gradients, x, x, h0).count("stablehlo.custom_call @mosaic_gpu") == 2


def test_a_cpu_is_refused():
    x = jnp.zeros((1, 3, 4))
    with pytest.raises(ValueError, match="Only interpret mode is supported on CPU"):
        linear_scan(x, x, implementation="gpu")


def attend(q, k, **options):
    options = {"one_document": True, "positions_BT": jnp.arange(q.shape[1])[None], **options}
    return local_attention(q, k, k, window=4, implementation="gpu", **options)


def test_attention_refuses_what_cudnn_would_get_wrong():
    q, k = jnp.zeros((1, 6, 2, 8), jnp.bfloat16), jnp.zeros((1, 6, 8), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"needs one_document=True.*'xla' does without"):
        attend(q, k, one_document=False)
    with pytest.raises(ValueError, match="needs positions 0 to 5 in every row"):
        attend(q, k, positions_BT=jnp.array([[0, 1, 2, 0, 1, 2]]))
    with pytest.raises(ValueError, match="needs bfloat16 or float16 throughout; got float32"):
        attend(q.astype(jnp.float32), k.astype(jnp.float32))
    with pytest.raises(ValueError, match="at most 256; got 264"):
        attend(jnp.zeros((1, 6, 2, 264), jnp.bfloat16), jnp.zeros((1, 6, 264), jnp.bfloat16))
    ring = jnp.zeros((1, 4, 8), jnp.bfloat16)
    past = {"ring_k_BWK": ring, "ring_v_BWK": ring, "start_position_B": jnp.zeros(1, jnp.int32)}
    with pytest.raises(ValueError, match="needs a sequence without past keys"):
        attend(q, k, one_document=False, **past)
    with pytest.raises(ValueError, match="every row starts at position 0, a ring or an axis"):
        attend(q, k, **past)


# On a GPU: JAX_PLATFORMS=cuda pytest -m gpu tests/kernels/test_gpu.py

gpu = pytest.mark.gpu


@gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("time", "width", "dtype"),
    [*SIZES[:-1], (257, 500, "float32"), (257, 96, "bfloat16"), (4100, 2560, "bfloat16")],
)
def test_on_a_gpu(time, width, dtype, reverse):
    check_linear_scan(time, width, dtype, reverse=reverse)
    check_rg_lru(time, width, dtype, padded=reverse)


@gpu
def test_segments_on_a_gpu(short_segments):
    check_linear_scan(100, 5, "float32", reverse=False)
    check_rg_lru(100, 5, "float32", padded=True)


@gpu
@pytest.mark.parametrize(("time", "window"), [(64, 64), (700, 128)])
def test_attention_on_a_gpu(time, window):
    arrays = [draw(0, 2, time, 4, 64), draw(1, 2, time, 64), draw(2, 2, time, 64)]

    def run(implementation, **options):
        return value_and_gradients(
            lambda *args: local_attention(
                *args,
                window=window,
                positions_BT=jnp.tile(jnp.arange(time)[None], (2, 1)),
                implementation=implementation,
                **options,
            ),
            *[x.astype(jnp.bfloat16) for x in arrays],
        )

    same(run("gpu", one_document=True), run("reference"), TOLERANCE["bfloat16"])
