# SPDX-License-Identifier: Apache-2.0
"""What the Pallas GPU kernels share: a warpgroup walks 128 channels of a sequence through time.

One thread a channel, its state in registers. The copy engine (TMA) fetches tiles of [time,
channels] STAGES - 1 ahead of the one in work and carries the results away behind it, so that every
byte of a stream is read or written once, whatever T and E: it fills what lies over an edge with
zeros and drops what is written there. It wants rows that are multiples of 16 bytes: at other widths
(E not a multiple of 8 in bfloat16, 4 in float32) each stream is copied once more, padded.

A GPU is full only if all its multiprocessors have a warpgroup, better two. There are B E / 128 of
them: 160 for 8 x 2048 x 2560 (132 multiprocessors, some with two), 2048 for 64 x 1024 x 4096, but
20 for 1 x 131072 x 2560. Where there are too few, time is cut into segments which are walked in
parallel, twice: the first walk writes nothing but what each segment does to a state that enters it,
h -> a h + b; that reads the streams it needs a second time.

Time is rounded up to whole tiles; tokens past its end are flagged as padding, which must leave
every carry alone.

Not run on a GPU yet: the sizes below are estimates (at 3 TB/s and 1 us of latency a multiprocessor
needs some 25 KB under way; a warpgroup has about twice that). Compiled for sm_90a, the RG-LRU takes
48 registers a thread forward and 76 backward and spills nothing; a token takes some 50 instructions
forward, which two warpgroups on a multiprocessor issue in about the time its bytes take in bf16.

Letters: N segments, C channels of a warpgroup, R rows of a tile, X blocks of channels, S stages.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels.marks import PADDING

CHANNELS = 128  # of a warpgroup
GROUP = 8  # rows in registers at a time: their gates do not wait for each other
ROWS = 32  # of a tile, at most; all smaller tiles divide it
STAGES, OUT_STAGES = 3, 2  # tiles in shared memory, of each stream that is read and written
SHARED = 100 * 1024  # bytes of shared memory: two warpgroups fit on a multiprocessor
FLAGS = 32  # flags of a tile in memory: the copy engine writes 128 bytes or a multiple
MULTIPROCESSORS = 132  # of an H100 or H200
MAX_SEGMENTS = 32

Step = Callable[..., tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]]


class Before(NamedTuple):
    """A stream of which a token sees the row before its own, and what lies before the first."""

    h_BTE: jax.Array
    h0_BE: jax.Array


def segment_length(batch: int, time: int, width: int) -> int:
    """Tokens of a segment: all of them, or a multiple of ROWS if warpgroups are too few.

    To cut is to walk twice (7/4 of the bytes for the RG-LRU forward, 10/8 backward), so it pays
    only where at most half of the multiprocessors would have work.
    """
    warpgroups = batch * pl.cdiv(width, CHANNELS)
    tiles = pl.cdiv(time, ROWS)
    segments = 1
    if 2 * warpgroups <= MULTIPROCESSORS:
        segments = max(1, min(2 * MULTIPROCESSORS // warpgroups, MAX_SEGMENTS, tiles // 8))
    return pl.cdiv(tiles, segments) * ROWS


def segments(time: int, length: int) -> int:
    """How many there are: the last one may be shorter."""
    return pl.cdiv(time, length)


def enter(
    a_BNE: jax.Array, b_BNE: jax.Array, h_BE: jax.Array, *, reverse: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(the state that enters each segment [B, N, E], the one that leaves the last), where a segment
    turns h into a h + b."""
    count = a_BNE.shape[1]
    entering: list[jax.Array] = [h_BE] * count
    for n in reversed(range(count)) if reverse else range(count):
        entering[n] = h_BE
        h_BE = a_BNE[:, n] * h_BE + b_BNE[:, n]
    return jnp.stack(entering, 1), h_BE


def compose(
    a_BNE: jax.Array, b_BNE: jax.Array, *, reverse: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(a, b) of all segments together."""
    return a_BNE.prod(1), enter(a_BNE, b_BNE, jnp.zeros_like(b_BNE[:, 0]), reverse=reverse)[1]


def nothing(x_BTE: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """(a, b) of no tokens, for each of N segments: what an effect starts from."""
    shape = (x_BTE.shape[0], count, x_BTE.shape[2])
    return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)


def tile_rows(reads: Sequence[jax.Array], writes: int) -> int:
    """R: as many rows as shared memory has room for; each write is as wide as the widest read."""
    size = max(x.dtype.itemsize for x in reads)
    row = (STAGES * len(reads) + OUT_STAGES * writes) * CHANNELS * size
    rows = ROWS
    while rows > GROUP and rows * row > SHARED:
        rows //= 2
    return rows


def walk(
    step: Step,
    streams: Sequence[jax.Array],
    flag_BT: jax.Array,
    channel: Sequence[jax.Array],
    start: Sequence[jax.Array],
    out_dtypes: Sequence[Any],
    *,
    length: int,
    name: str,
    before: Before | None = None,
    reverse: bool = False,
    interpret: Any = False,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Applies `step` to the tokens of every segment in order and carries its state along.

    Args:
      step: (token, flag, channel, carry) -> (outputs, carry), of one token and C channels: `token`
        holds a row of each stream, float32 [C], and of `before` last; `flag` is a scalar.
      streams: [B, T, E], float32 or bfloat16.
      flag_BT: int32, what each token is; past T they are PADDING and all streams are 0.
      channel: constants of each channel, float32 [E].
      start: the carry that enters each segment, float32 [B, N, E] each.
      out_dtypes: dtypes of the outputs.
      length: tokens of a segment (segment_length).
      name: of the kernel, for profiles.
      before: a further stream; see Before.
      reverse: from the last token of a segment to its first.
      interpret: parameters of Pallas' GPU interpreter, which knows no copies over an edge: streams
        are padded for it.

    Returns:
      The outputs [B, T, E] and the carry that leaves each segment, float32 [B, N, E] each.
    """
    batch, time, width = streams[0].shape
    reads = [*streams, *([before.h_BTE] if before else [])]
    rows = tile_rows(reads, len(out_dtypes))
    tiles, blocks, count = pl.cdiv(time, rows), pl.cdiv(width, CHANNELS), segments(time, length)
    whole = (tiles * rows, blocks * CHANNELS)
    full = whole if interpret else (time, _aligned(width, reads, out_dtypes))
    reads = [jnp.pad(x, ((0, 0), (0, full[0] - time), (0, full[1] - width))) for x in reads]
    wide = [_blocked(v, whole[1]) for v in (*channel, *start, *([before.h0_BE] if before else []))]
    small = jax.ShapeDtypeStruct((batch, count, blocks, CHANNELS), jnp.float32)
    kernel = _Kernel(
        step=step,
        read=len(reads),
        channel=len(channel),
        carry=len(start),
        written=len(out_dtypes),
        before=before is not None,
        tiles=tiles,
        rows=rows,
        segment=length // rows,
        reverse=reverse,
    )

    def body(*refs):
        kernel(refs)

    body.__name__ = name
    tile = lambda stages, dtype: plgpu.SMEM((stages, rows, CHANNELS), dtype)  # noqa: E731
    outputs = plgpu.kernel(
        body,
        out_type=[
            *(jax.ShapeDtypeStruct((batch, *full), dtype) for dtype in out_dtypes),
            *([small] * len(start)),
        ],
        scratch_types=[
            *(tile(STAGES, x.dtype) for x in reads),
            plgpu.SMEM((STAGES, FLAGS), jnp.int32),
            *([plgpu.SMEM((STAGES, 1, CHANNELS), before.h_BTE.dtype)] if before else []),
            *(tile(OUT_STAGES, dtype) for dtype in out_dtypes),
            plgpu.Barrier(num_arrivals=len(reads) + 1 + (before is not None), num_barriers=STAGES),
        ],
        grid=(batch, count, blocks),
        grid_names=("row", "segment", "block"),
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            # Safe: the warpgroup reads and writes different memory, and commits before each copy.
            unsafe_no_auto_barriers=True,
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=interpret,
    )(*reads, _tiled(flag_BT, tiles, rows), *wide)
    outputs = [_varying_as(streams[0], x) for x in outputs]
    outs, ends = outputs[: len(out_dtypes)], outputs[len(out_dtypes) :]
    return (
        tuple(x[:, :time, :width] for x in outs),
        tuple(x.reshape(batch, count, -1)[..., :width] for x in ends),
    )


def _aligned(width: int, reads: Sequence[jax.Array], out_dtypes: Sequence[Any]) -> int:
    """E, or a little more, so that rows are multiples of 16 bytes."""
    size = min(jnp.dtype(d).itemsize for d in (*(x.dtype for x in reads), *out_dtypes))
    return pl.cdiv(width, 16 // size) * (16 // size)


def _blocked(v_NE: jax.Array, width: int) -> jax.Array:
    """[..., X, C]: the last axis in blocks of channels."""
    grow = [(0, 0)] * (v_NE.ndim - 1) + [(0, width - v_NE.shape[-1])]
    return jnp.pad(v_NE, grow).reshape(*v_NE.shape[:-1], -1, CHANNELS)


def _tiled(flag_BT: jax.Array, tiles: int, rows: int) -> jax.Array:
    """[B, tiles, FLAGS], of which the first R of each tile are used."""
    batch, time = flag_BT.shape
    flag_BT = jnp.pad(flag_BT, ((0, 0), (0, tiles * rows - time)), constant_values=PADDING)
    return jnp.pad(flag_BT.reshape(batch, tiles, rows), ((0, 0), (0, 0), (0, FLAGS - rows)))


def _varying_as(like: jax.Array, x: jax.Array) -> jax.Array:
    """Under shard_map, marks x as different over the mesh axes over which `like` differs."""
    axes = tuple(jax.typeof(like).mat.varying - jax.typeof(x).mat.varying)
    return jax.lax.pcast(x, axes, to="varying") if axes else x


class _Kernel(NamedTuple):
    """The kernel's body and the counts it needs to tell its references apart."""

    step: Step
    read: int
    channel: int
    carry: int
    written: int
    before: bool
    tiles: int  # of the whole sequence
    rows: int
    segment: int  # tiles of a segment
    reverse: bool

    def __call__(self, refs: Sequence[Any]) -> None:
        given = iter(refs)
        take = lambda n: [next(given) for _ in range(n)]  # noqa: E731
        x_BTE, (flag_BNR,), channel_XC = take(self.read), take(1), take(self.channel)
        start_BNXC, h0_BXC = take(self.carry), take(self.before)
        out_BTE, end_BNXC = take(self.written), take(self.carry)
        x_SRC, (flag_SR,), before_S1C = take(self.read), take(1), take(self.before)
        out_SRC, (barrier,) = take(self.written), take(1)
        b, n, e = (jax.lax.axis_index(axis) for axis in ("row", "segment", "block"))
        channels = pl.ds(e * CHANNELS, CHANNELS)
        first = n * self.segment
        one = self.segment >= self.tiles  # one segment: the loop's length is static
        count = self.tiles if one else jnp.minimum(self.segment, self.tiles - first)

        def tile_of(i):
            return first + (count - 1 - i if self.reverse else i)

        def copy(source, target, stage):
            zeros = plgpu.OOBFillMode.ZEROS
            plgpu.copy_gmem_to_smem(source, target.at[stage], barrier.at[stage], oob_mode=zeros)

        def fetch(i, stage):
            t = tile_of(i)
            here = (b, pl.ds(t * self.rows, self.rows), channels)
            for source, target in zip(x_BTE, x_SRC, strict=True):
                copy(source.at[here], target, stage)
            copy(flag_BNR.at[b, t], flag_SR, stage)
            for target in before_S1C:
                row = pl.ds(jnp.maximum(t * self.rows - 1, 0), 1)
                copy(x_BTE[-1].at[b, row, channels], target, stage)

        for i in range(STAGES):
            pl.when(i < count)(lambda i=i: fetch(i, i))
        channel_C = tuple(ref[e] for ref in channel_XC)
        h0_C = [ref[b, e] for ref in h0_BXC]

        def one_tile(i, carry):
            stage, t = jax.lax.rem(i, STAGES), tile_of(i)
            out_slot = jax.lax.rem(i, OUT_STAGES)
            plgpu.barrier_wait(barrier.at[stage])
            if self.written:  # the copy that last left from this stage has read it
                plgpu.wait_smem_to_gmem(OUT_STAGES - 1, wait_read_only=True)
            before_C = [
                jnp.where(t == 0, h0, ref[stage, 0].astype(jnp.float32))
                for h0, ref in zip(h0_C, before_S1C, strict=True)
            ]
            tile = ([ref.at[stage] for ref in x_SRC], flag_SR.at[stage], before_C, channel_C)
            carry = self._tile(tile, [ref.at[out_slot] for ref in out_SRC], carry)
            plgpu.commit_smem()  # also: every thread has read its part of the tile
            for source, target in zip(out_SRC, out_BTE, strict=True):
                there = (b, pl.ds(t * self.rows, self.rows), channels)
                plgpu.copy_smem_to_gmem(source.at[out_slot], target.at[there], commit_group=False)
            if self.written:
                plgpu.commit_smem_to_gmem_group()
            pl.when(i + STAGES < count)(lambda: fetch(i + STAGES, stage))
            return carry

        # Times 1: under shard_map what a reference holds is marked as varying, no result ever is.
        start = tuple(1.0 * ref[b, n, e] for ref in start_BNXC)
        end = jax.lax.fori_loop(0, count, one_tile, start)
        for ref, value in zip(end_BNXC, end, strict=True):
            ref[b, n, e] = value
        if self.written:
            plgpu.wait_smem_to_gmem(0)

    def _tile(self, tile, outs, carry):
        """All rows of a tile, GROUP at a time: first all loads, then the steps, then all stores, so
        that no load waits for a store that it might depend on."""
        x_RC, flag_R, before_C, channel_C = tile
        groups = self.rows // GROUP

        def one_group(i, carry):
            base = GROUP * (groups - 1 - i if self.reverse else i)
            streams = x_RC[:-1] if self.before else x_RC
            tokens = [[x[base + r].astype(jnp.float32) for x in streams] for r in range(GROUP)]
            for first_C in before_C:
                last_C = x_RC[-1][jnp.maximum(base - 1, 0)].astype(jnp.float32)
                tokens[0].append(jnp.where(base == 0, first_C, last_C))
                for r in range(1, GROUP):
                    tokens[r].append(x_RC[-1][base + r - 1].astype(jnp.float32))
            flags = [flag_R[base + r] for r in range(GROUP)]
            results: dict[int, tuple[jax.Array, ...]] = {}
            for r in reversed(range(GROUP)) if self.reverse else range(GROUP):
                results[r], carry = self.step(tuple(tokens[r]), flags[r], channel_C, carry)
            for r, values in results.items():
                for ref, value in zip(outs, values, strict=True):
                    ref[base + r] = value.astype(ref.dtype)
            return carry

        return jax.lax.fori_loop(0, groups, one_group, carry)
