# SPDX-License-Identifier: Apache-2.0
"""Time and fraction of the physical limit of every implementation that runs on this machine.

    griffin bench kernels           under 50 seconds
    griffin bench kernels --full    minutes: more and larger shapes, all dtypes

The limit is measured beside them: what a copy on the device moves in a second for the scans, which
do next to no arithmetic; what a matrix product computes in a second for attention. The candidates
of a case are timed in turn, so that a busy machine slows them alike; seconds are medians.
"""

import functools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.linear_scan import linear_scan
from kernels.local_attention import local_attention
from kernels.rg_lru import rg_lru

ON_CPU = ("reference", "xla")
ON = {"cpu": ON_CPU, "tpu": (*ON_CPU, "tpu"), "gpu": (*ON_CPU, "gpu")}
PASSES = ("forward", "forward+backward")
WINDOW = 2048


class Case(NamedTuple):
    """One shape of one op. work: bytes that must move, or floating point operations, by pass."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], tuple[jax.Array, ...]]
    functions: dict[str, Callable]  # by implementation
    bytes_moved: dict[str, float]
    operations: dict[str, float] | None = None


def cases(full: bool, platform: str) -> Iterator[Case]:
    """What is timed: B x T x E of the scans, B x T x H x K of attention."""
    small = platform == "cpu"
    shapes = [(1, 2048, 1024), (8, 2048, 1024)] if small else [(8, 2048, 2560)]
    if full:
        shapes += [(1, 8192, 2560)] if small else [(1, 131_072, 2560), (64, 1024, 4096)]
    dtypes = ("float32", "bfloat16") if full or not small else ("float32",)
    for dtype in dtypes:
        for shape in shapes:
            yield linear_scan_case(shape, dtype, platform)
            yield rg_lru_case(shape, dtype, platform)
        time_ = 16_384 if full else 4096
        yield attention_case((1, time_, 1 if small else 10, 256), dtype, platform)
        yield decode_case((8, 1, 10, 256), dtype)


def draw(index: int, shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jax.random.normal(jax.random.key(index), shape, jnp.dtype(dtype))


def linear_scan_case(shape: tuple[int, ...], dtype: str, platform: str) -> Case:
    def make():
        return draw(0, shape, dtype), jax.nn.sigmoid(draw(1, shape, dtype) + 2)

    functions: dict[str, Callable] = {name: functools.partial(_scan, name) for name in ON[platform]}
    functions["associative_scan"] = associative_scan
    stream = math.prod(shape) * jnp.dtype(dtype).itemsize
    # forward: x, a -> h; backward: h, a, dh -> dx, da
    moved = {PASSES[0]: 3.0 * stream, PASSES[1]: 8.0 * stream}
    return Case("linear_scan", shape, dtype, make, functions, moved)


def rg_lru_case(shape: tuple[int, ...], dtype: str, platform: str) -> Case:
    def make():
        return tuple(draw(i, shape, dtype) for i in range(3))

    a_param = jnp.linspace(-6, -2, shape[2])
    reset = jnp.arange(shape[1])[None] % 500 == jnp.zeros((shape[0], 1), jnp.int32)

    def function(name, x, input_gate, a_gate):
        args = (x, input_gate, a_gate, a_param)
        return rg_lru(*args, reset_BT=reset, implementation=name)[0]

    functions = {name: functools.partial(function, name) for name in ON[platform]}
    stream = math.prod(shape) * jnp.dtype(dtype).itemsize
    moved = {PASSES[0]: 4.0 * stream, PASSES[1]: 12.0 * stream}  # kernels/rg_lru/tpu.py
    return Case("rg_lru", shape, dtype, make, functions, moved)


def attention_case(shape: tuple[int, ...], dtype: str, platform: str) -> Case:
    batch, length, heads, size = shape

    def make():
        return draw(0, shape, dtype), *(draw(i, (batch, length, size), dtype) for i in (1, 2))

    positions = jnp.tile(jnp.arange(length, dtype=jnp.int32)[None], (batch, 1))

    def function(name, q, k, v):
        return local_attention(
            *(q, k, v),
            window=WINDOW,
            positions_BT=positions,
            one_document=name == "gpu",
            implementation=name,
        )

    names = [name for name in ON[platform] if name != "gpu" or dtype != "float32"]  # cuDNN has none
    functions = {name: functools.partial(function, name) for name in names}
    seen = sum(min(t + 1, WINDOW + 1) for t in range(length))
    forward = 4.0 * batch * heads * size * seen
    stream = jnp.dtype(dtype).itemsize * (2 * math.prod(shape) + 2 * batch * length * size)
    return Case(
        *("local_attention", shape, dtype, make, functions),
        {PASSES[0]: 1.0 * stream, PASSES[1]: 3.0 * stream},
        {PASSES[0]: forward, PASSES[1]: 3.5 * forward},
    )


def decode_case(shape: tuple[int, ...], dtype: str) -> Case:
    """One token per row over full windows; `plain` is one masked softmax over the ring."""
    batch, _, _, size = shape
    ring_shape = (batch, WINDOW, size)
    position = jnp.full((batch,), 3 * WINDOW + 5, jnp.int32)

    def make():
        return draw(0, shape, dtype), *(draw(i, ring_shape, dtype) for i in (1, 2))

    def xla(q, ring_k, ring_v):
        new = (ring_k[:, :1], ring_v[:, :1])
        return local_attention(
            *(q, *new, ring_k, ring_v),
            window=WINDOW,
            positions_BT=position[:, None],
            start_position_B=position,
        )

    def plain(q, ring_k, ring_v):
        f32_q, f32_k, f32_v = (x.astype(jnp.float32) for x in (q, ring_k, ring_v))
        logits = jnp.einsum("bthk,bsk->bhts", f32_q, f32_k) * size**-0.5
        visible = jnp.arange(WINDOW)[None] <= position[:, None]
        weights = jax.nn.softmax(jnp.where(visible[:, None, None], logits, -1e30), -1)
        return jnp.einsum("bhts,bsk->bthk", weights, f32_v).astype(q.dtype)

    moved = {PASSES[0]: 2.0 * math.prod(ring_shape) * jnp.dtype(dtype).itemsize}
    return Case("decode_attention", shape, dtype, make, {"plain": plain, "xla": xla}, moved)


def _scan(name: str, x: jax.Array, a: jax.Array) -> jax.Array:
    return linear_scan(x, a, implementation=name)[0]


def associative_scan(x_BTE: jax.Array, a_BTE: jax.Array) -> jax.Array:
    """The same by jax.lax.associative_scan, to compare with."""

    def combine(left, right):
        return right[0] * left[0], right[0] * left[1] + right[1]

    wide = (a_BTE.astype(jnp.float32), x_BTE.astype(jnp.float32))
    return jax.lax.associative_scan(combine, wide, axis=1)[1].astype(x_BTE.dtype)


def with_gradients(function: Callable, *args: jax.Array) -> Any:
    """Output and gradients of every input; the output stands for its own gradient."""
    out, pullback = jax.vjp(function, *args)
    return out, pullback(out)


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int, least: float) -> dict[str, float]:
    """Median seconds of each run; they take turns, and a round of one lasts at least `least`."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    repeats = {}
    for name, run in runs.items():
        jax.block_until_ready(run())
        start = time.perf_counter()
        jax.block_until_ready(run())
        repeats[name] = max(1, round(least / max(time.perf_counter() - start, 1e-7)))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                out = run()
            jax.block_until_ready(out)
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def limits(dtype: str, platform: str) -> tuple[float, float]:
    """(bytes a second of a copy, floating point operations a second of a matrix product)."""
    megabytes, side = (256, 2048) if platform == "cpu" else (2048, 8192)
    x = jnp.zeros((megabytes * 2**20 // 4,), jnp.float32)
    w = draw(0, (side, side), dtype)
    copy = jax.jit(lambda x: x + 1.0)
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    seconds_of = interleaved({"copy": lambda: copy(x), "product": lambda: product(w, w)}, 5, 0.02)
    return 2 * x.nbytes / seconds_of["copy"], 2 * side**3 / seconds_of["product"]


def measure(full: bool = False, report: Callable[[str], None] = lambda text: None) -> list[dict]:
    """One dictionary for each op, implementation, shape, dtype and pass.

    report is called with what is being timed. fraction_of_limit compares with a copy of as many
    bytes, in attention with a matrix product of as many operations.
    """
    platform = jax.default_backend()
    ceilings: dict[str, tuple[float, float]] = {}
    rows = []
    for case in cases(full, platform):
        if case.dtype not in ceilings:
            report(f"limits of this machine, {case.dtype}")
            ceilings[case.dtype] = limits(case.dtype, platform)
        bandwidth, speed = ceilings[case.dtype]
        args = case.make()
        for name in case.bytes_moved:
            report(f"{case.op} {'x'.join(map(str, case.shape))} {case.dtype} {name}")
            runs = {}
            for implementation, function in case.functions.items():
                if name == PASSES[1]:
                    function = functools.partial(with_gradients, function)
                try:
                    compiled = jax.jit(function).lower(*args).compile()
                except Exception as error:  # its compiler's own, of any kind; the others go on
                    first = (str(error).splitlines() or [""])[0]
                    warnings.warn(
                        f"{case.op} {implementation} {name}: not timed: {first}", stacklevel=2
                    )
                    continue
                runs[implementation] = functools.partial(compiled, *args)
            seconds_of = interleaved(runs, 5 if full else 3, 0.05)
            reference = seconds_of.get("reference") or seconds_of["plain"]
            for implementation, seconds in seconds_of.items():
                moved = case.bytes_moved[name]
                least = case.operations[name] / speed if case.operations else moved / bandwidth
                rows.append(
                    {
                        "op": case.op,
                        "implementation": implementation,
                        "shape": list(case.shape),
                        "dtype": case.dtype,
                        "pass": name,
                        "seconds": seconds,
                        "bytes_per_second": moved / seconds,
                        "fraction_of_limit": least / seconds,
                        "speedup_over_reference": reference / seconds,
                    }
                )
    return rows


def table(rows: list[dict]) -> list[list[str]]:
    """The rows as text, the implementations of a case beside each other."""
    lines = []
    for row in rows:
        lines.append(
            [
                row["op"],
                "x".join(map(str, row["shape"])),
                row["dtype"],
                row["pass"],
                row["implementation"],
                f"{1e3 * row['seconds']:,.2f}",
                f"{row['bytes_per_second'] / 1e9:,.1f}",
                f"{100 * row['fraction_of_limit']:.0f}%",
                f"{row['speedup_over_reference']:.2f}",
            ]
        )
    return lines
