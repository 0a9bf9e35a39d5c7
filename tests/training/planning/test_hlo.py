# SPDX-License-Identifier: Apache-2.0
"""What hlo.py reads off a compiled program, against programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from recurrentgemma.sharding import MeshConfig, make_mesh
from training.planning import hlo

pytestmark = pytest.mark.usefixtures("compiled_for_users")

MESH = MeshConfig(data=1, fsdp=4, tensor=2)
STEPS = 5


@pytest.fixture(scope="module")
def program():
    """In a loop of five steps inside a loop of three: a sum of [8, 16] over tensor; before them one
    gather over fsdp of [2, 16] to [8, 16] and one exchange with a neighbour."""

    def run(x):
        x = jax.lax.all_gather(x, "fsdp", axis=0, tiled=True)
        x = jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)])

        def inner(x, _):
            return jnp.tanh(jax.lax.psum(x, "tensor")), None

        def outer(x, _):
            return jax.lax.scan(inner, x, None, length=STEPS)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    mesh = make_mesh(MESH)
    sharded = jax.shard_map(run, mesh=mesh, in_specs=P("fsdp"), out_specs=P(), check_vma=False)
    text = jax.jit(sharded).lower(jnp.ones((8, 16))).compile().as_text()
    assert text is not None
    return hlo.parse(text)


def test_loops_are_counted_as_often_as_they_run(program):
    assert max(hlo.runs(program).values()) == 3 * STEPS


def test_collectives(program):
    """Bytes sent by a ring: (n - 1)/n of the whole to gather, twice that to sum."""
    by_kind = {c.kind: c for c in hlo.collectives(program)}
    whole = 4 * 8 * 16
    assert set(by_kind) == {"all-gather", "all-reduce", "collective-permute"}
    assert by_kind["all-gather"].times == 1
    assert by_kind["all-gather"].sent == whole * 3 / 4
    assert len(by_kind["all-gather"].group) == 4
    assert by_kind["all-reduce"].times == 3 * STEPS
    assert by_kind["all-reduce"].sent == 2 * whole * 1 / 2
    assert len(by_kind["all-reduce"].group) == 2
    assert by_kind["collective-permute"].sent == whole


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x", (0, 2)),
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4)),
        ("replica_groups=mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'b'}, x", (0, 1)),
        ("replica_groups=mesh['a'=2,'b'=3], device_ids=([3,2]T(1,0)) {'b'}, x", (0, 2, 4)),
        ("source_target_pairs={{0,1},{1,2}}, x", (0, 1)),
    ],
)
def test_ways_to_write_groups(text, group):
    assert hlo._group(text) == group


def test_a_group_that_is_not_understood():
    with pytest.raises(ValueError, match="a collective without its devices"):
        hlo._group("replica_groups=?")


TEXT = """HloModule jit_f, is_scheduled=true

%fused (p: f32[10,1024], i: s32[]) -> f32[1,1024] {
  %p = f32[10,1024]{1,0:T(8,128)} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,1024]{1,0:T(8,128)} dynamic-slice(%p, %i), dynamic_slice_sizes={1,1024}
}

%fused.1 (p.1: f32[10,1024], u: f32[1,1024]) -> f32[10,1024] {
  %p.1 = f32[10,1024]{1,0:T(8,128)} parameter(0)
  %u = f32[1,1024]{1,0:T(8,128)} parameter(1)
  ROOT %d = f32[10,1024]{1,0:T(8,128)} dynamic-update-slice(%p.1, %u), metadata={op_name="a b"}
}

%all-reduce-scatter.1 (q: f32[8,1024]) -> f32[2,1024] {
  %q = f32[8,1024]{1,0:T(8,128)} parameter(0)
  %ar = f32[8,1024]{1,0:T(8,128)} all-reduce(%q), replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %z = f32[2,1024]{1,0:T(8,128)} slice(%ar), slice={[0:2], [0:1024]}
}

ENTRY %main (x: f32[10,1024], g: f32[8,1024]) -> f32[10,1024] {
  %x = f32[10,1024]{1,0:T(8,128)} parameter(0)
  %g = f32[8,1024]{1,0:T(8,128)S(1)} parameter(1)
  %zero = s32[] constant(0)
  %taken = f32[1,1024]{1,0:T(8,128)S(1)} fusion(%x, %zero), kind=kLoop, calls=%fused
  %scattered = f32[2,1024]{1,0:T(8,128)S(1)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %put = f32[10,1024]{1,0:T(8,128)} fusion(%x, %taken), kind=kLoop, calls=%fused.1
}
"""


def test_memory_traffic_counts_what_is_sliced_and_nothing_on_chip():
    """4 KB read by the slice, its index, and 4 KB written in place; the rest is on the chip."""
    module = hlo.parse(TEXT)
    assert module.entry == "main"
    assert hlo.hbm_traffic(module) == 4 * 1024 + 4 + 4 * 1024


ROWS = """HloModule jit_f, is_scheduled=true

%taken (x: bf16[64,2048,256], at: s32[64]) -> bf16[64,256] {
  %x = bf16[64,2048,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %at = s32[64]{0:T(128)S(1)} parameter(1)
  ROOT %gather = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} gather(%x, %at), offset_dims={1}
}

%put (x: bf16[64,2048,256], at: s32[64], new: bf16[64,256]) -> bf16[64,2048,256] {
  %x = bf16[64,2048,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %at = s32[64]{0:T(128)S(1)} parameter(1)
  %new = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  ROOT %scatter = bf16[64,2048,256]{2,1,0:T(8,128)(2,1)} scatter(%x, %at, %new), to_apply=%last
}

ENTRY %main (x: bf16[64,2048,256], at: s32[64]) -> bf16[64,2048,256] {
  %x = bf16[64,2048,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %at = s32[64]{0:T(128)S(1)} parameter(1)
  %rows = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} fusion(%x, %at), kind=kCustom, calls=%taken
  ROOT %out = bf16[64,2048,256]{2,1,0:T(8,128)(2,1)} fusion(%x, %at, %rows), kind=kCustom, \
calls=%put
}
"""


NESTED = """HloModule jit_f, is_scheduled=true

%slice (p: bf16[10,256,512], i: s32[]) -> bf16[256,512] {
  %p = bf16[10,256,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[] parameter(1)
  %s = bf16[1,256,512]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p, %i), dynamic_slice_sizes={1,256,512}
  ROOT %b = bf16[256,512]{1,0:T(8,128)(2,1)} bitcast(%s)
}

%product (w: bf16[10,256,512], j: s32[], x: bf16[8,512]) -> bf16[8,256] {
  %w = bf16[10,256,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %j = s32[] parameter(1)
  %x = bf16[8,512]{1,0:T(8,128)(2,1)} parameter(2)
  %one = bf16[256,512]{1,0:T(8,128)(2,1)} fusion(%w, %j), kind=kLoop, calls=%slice
  ROOT %y = bf16[8,256]{1,0:T(8,128)(2,1)} convolution(%x, %one), dim_labels=bf_oi->bf
}

ENTRY %main (w: bf16[10,256,512], x: bf16[8,512]) -> bf16[8,256] {
  %w = bf16[10,256,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %x = bf16[8,512]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %zero = s32[]{:S(2)} constant(0)
  ROOT %y = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %zero, %x), kind=kOutput, calls=%product
}
"""


def test_memory_traffic_of_a_slice_inside_of_a_product():
    """Of ten weights a product reads the one that a fusion inside of it takes."""
    assert hlo.hbm_traffic(hlo.parse(NESTED)) == 256 * 512 * 2


def test_memory_traffic_of_rows_that_are_taken_and_put():
    """Of an array in memory some rows are read by a gather, and some written in place by a
    scatter; the rest of it is left alone."""
    assert hlo.hbm_traffic(hlo.parse(ROWS)) == 2 * 64 * 256 * 2


SLICES = """HloModule jit_f, is_scheduled=true

ENTRY %main (w: bf16[2560,7680]) -> bf16[640,7680] {
  %w = bf16[2560,7680]{1,0:T(8,128)(2,1)} parameter(0)
  %start = ((bf16[2560,7680]{1,0:T(8,128)(2,1)}), bf16[640,7680]{1,0:T(8,128)(2,1)S(1)}, \
s32[]{:S(2)}) slice-start(%w), slice={[0:640], [0:7680]}
  %done = bf16[640,7680]{1,0:T(8,128)(2,1)S(1)} slice-done(%start)
  %over = ((bf16[2560,7680]{1,0:T(8,128)(2,1)}), bf16[640,7680]{1,0:T(8,128)(2,1)}, \
s32[]{:S(2)}) slice-start(%w), slice={[640:1280], [0:7680]}
  ROOT %copied = bf16[640,7680]{1,0:T(8,128)(2,1)} slice-done(%over)
}
"""


def test_memory_traffic_of_asynchronous_slices():
    """Read from memory to the chip; the second one is written to memory, too."""
    assert hlo.hbm_traffic(hlo.parse(SLICES)) == 3 * 640 * 7680 * 2


def test_a_fused_sum_and_slice_is_a_reduce_scatter():
    (collective,) = hlo.collectives(hlo.parse(TEXT))
    assert (collective.kind, collective.times, collective.sent) == (
        "reduce-scatter",
        1,
        4 * 8 * 1024 * 3 / 4,
    )


def test_a_loop_without_a_bound():
    text = """HloModule m

%cond (c: (s32[])) -> pred[] {
  %c = (s32[]) parameter(0)
  ROOT %l = pred[] custom-call(%c)
}

%body (b: (s32[])) -> (s32[]) {
  ROOT %b = (s32[]) parameter(0)
}

ENTRY %main (x: (s32[])) -> (s32[]) {
  %x = (s32[]) parameter(0)
  ROOT %w = (s32[]) while(%x), condition=%cond, body=%body
}
"""
    with pytest.raises(ValueError, match="loop w: cannot tell how often it runs"):
        hlo.runs(hlo.parse(text))


CARRIED = """HloModule jit_f, is_scheduled=true

%step (w: f32[64,1024], y: f32[128,1024], x: f32[8,1024]) -> (f32[8,1024], f32[64,1024]) {
  %x = f32[8,1024]{1,0:T(8,128)} parameter(2)
  %twice = f32[8,1024]{1,0:T(8,128)} add(%x, %x)
  %w = f32[64,1024]{1,0:T(8,128)} parameter(0)
  %y = f32[128,1024]{1,0:T(8,128)} parameter(1)
  %gathered = f32[128,1024]{1,0:T(8,128)} all-gather(%w), replica_groups={{0,1}}, \
frontend_attributes={chain_id="7"}
  ROOT %all = (f32[8,1024]{1,0:T(8,128)}, f32[64,1024]{1,0:T(8,128)}, \
f32[128,1024]{1,0:T(8,128)}, f32[128,1024]{1,0:T(8,128)}) tuple(%twice, %w, %y, %gathered)
}

ENTRY %main (w: f32[64,1024], y: f32[128,1024], x: f32[8,1024]) -> f32[8,1024] {
  %w = f32[64,1024]{1,0:T(8,128)} parameter(0)
  %y = f32[128,1024]{1,0:T(8,128)} parameter(1)
  %x = f32[8,1024]{1,0:T(8,128)} parameter(2)
  %one = (f32[8,1024]{1,0:T(8,128)}, f32[64,1024]{1,0:T(8,128)}, f32[128,1024]{1,0:T(8,128)}, \
f32[128,1024]{1,0:T(8,128)}) fusion(%w, %y, %x), kind=kCustom, calls=%step
  %on = f32[8,1024]{1,0:T(8,128)} get-tuple-element(%one), index=0
  %two = (f32[8,1024]{1,0:T(8,128)}, f32[64,1024]{1,0:T(8,128)}, f32[128,1024]{1,0:T(8,128)}, \
f32[128,1024]{1,0:T(8,128)}) fusion(%w, %y, %on), kind=kCustom, calls=%step
  ROOT %out = f32[8,1024]{1,0:T(8,128)} get-tuple-element(%two), index=0
}
"""


def test_a_collective_that_goes_on_through_fusions_is_counted_once():
    """Both fusions add up 8 rows, and carry a gather of 64 rows to 128 on; what they pass on as it
    is moves nothing."""
    row = 4 * 1024
    assert hlo.hbm_traffic(hlo.parse(CARRIED)) == 2 * (8 + 8) * row + (64 + 128) * row
    assert [one.sent for one in hlo.collectives(hlo.parse(CARRIED))] == [64 * row]
