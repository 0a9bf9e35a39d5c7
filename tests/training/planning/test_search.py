# SPDX-License-Identifier: Apache-2.0
"""What --search compiles, and what it leaves out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from kernels.measure import tpu_compile
from recurrentgemma.presets import recurrentgemma_2b, tiny
from recurrentgemma.sharding import MeshConfig
from training.observe.chips import CHIPS
from training.planning import search as planning
from training.planning.search import Candidate, cached_plan, candidate_meshes, candidates, search

CHIP = CHIPS["v5e"]
FIRST, SECOND = MeshConfig(data=1, fsdp=4), MeshConfig(data=2, fsdp=2)


def candidate(
    remat: Any, share: float, seconds: float, mesh=FIRST, likely: float = 0.5, kept: float = 0
):
    """Of which the arithmetic says `share` of the memory."""
    config = dataclasses.replace(tiny(), remat=remat)
    return Candidate(config, mesh, share * CHIP.hbm, likely * CHIP.hbm, seconds, kept)


def run(
    waiting: list[Candidate],
    needed: dict[str, float],
    traffic: Callable[[float], float] = lambda kept: 0.0,
    sent: float = 0.0,
) -> tuple[list[str], list[str]]:
    """(policies compiled, lines reported), where a policy needs this share of the memory and a step
    takes what its bound says, or its traffic by what it keeps, or what it sends."""
    compiled, reported = [], []

    def compile_one(one: Candidate) -> dict[str, Any]:
        remat = one.config.remat
        compiled.append(remat)
        fits = needed.get(remat, 0.5) <= 1
        seconds = traffic(one.kept)
        return {
            "fits": fits,
            "step_seconds": max(one.seconds, seconds, sent) if fits else None,
            "seconds": {"memory": seconds, "interconnect": sent},
            "bytes_per_device": {"total": needed.get(remat, 0.5) * CHIP.hbm},
        }

    ticks = iter(range(0, 6000, 60))
    list(search(waiting, "v5e:2x2", compile_one, reported.append, lambda: next(ticks)))
    return compiled, reported


def test_the_fastest_that_is_likely_to_fit_ends_the_search():
    waiting = [
        candidate("none", 1.2, 1.0, likely=2),  # cannot fit
        candidate("mlp", 0.7, 1.1),
        candidate("block", 0.2, 1.5),
        candidate("block", 0.2, 1.6, SECOND),
    ]
    assert run(waiting, {"mlp": 0.9})[0] == ["mlp"]


def test_what_one_policy_needs_beside_its_bound_counts_for_the_others():
    """`mlp` needs 0.5 more than its bound: 0.7 of that are too much for `dots`."""
    waiting = [
        candidate("dots", 0.8, 1.0, likely=1.3),
        candidate("mlp", 0.6, 1.1),
        candidate("mixer", 0.4, 1.2),
    ]
    compiled, reported = run(waiting, {"mlp": 1.1, "mixer": 0.9})
    assert compiled == ["mlp", "mixer"]
    assert reported == ["1 tried, 1 may be faster: 1 minutes at most"]


def test_where_traffic_bounds_two_policies_tell_the_others():
    """What 2B on v6e:4x4 keeps and takes: the heaviest goes first, as its arithmetic is least."""
    gib = {"kernels": 11, "dots": 10.4, "wide": 9.1, "mlp": 7.5, "mixer": 3.5, "outputs": 1.9}
    took = dict(zip(gib.values(), (0.2033, 0.1992, 0.1959, 0.1924, 0.1887, 0.1852), strict=True))
    waiting = [
        candidate(name, 0.3, 0.1592 + n / 1000, kept=gib[name] * 2**30)
        for n, name in enumerate(gib)
    ]
    compiled, _ = run(waiting, {}, lambda kept: took[round(kept / 2**30, 1)])
    assert compiled == ["kernels", "outputs", "mixer"]


def test_where_exchange_bounds_one_policy_tells_the_others_but_for_none():
    waiting = [candidate(name, 0.3, 1.0) for name in ("kernels", "dots", "none", "block")]
    assert run(waiting, {}, sent=1.2)[0] == ["kernels", "none"]


def test_where_nothing_fits_the_smallest_is_compiled():
    waiting = [candidate("none", 3, 1.0, likely=4), candidate("block", 2, 2.0, likely=3)]
    assert run(waiting, {"block": 2.5})[0] == ["block"]


@pytest.mark.skipif(tpu_compile.library() is None, reason="libtpu is not installed here")
def test_bounds():
    """Of 2B on sixteen chips: what must not be left out is not, and the estimate is near what the
    compiler said (12.11 and 14.21 GiB)."""
    config = dataclasses.replace(
        recurrentgemma_2b(), dtype="bfloat16", scan_layers=True, remat="auto"
    )
    bounded = candidates(
        *(config, "v5e:4x4"), batch=16, sequence=8192, meshes=[MeshConfig(data=1, fsdp=16)]
    )
    by_policy = {one.config.remat: one for one in bounded}
    for remat, gigabytes in {"half_mlp": 12.11, "wide": 14.21}.items():
        assert by_policy[remat].memory < gigabytes * 2**30
        assert by_policy[remat].likely == pytest.approx(gigabytes * 2**30, rel=0.1)
    assert by_policy["none"].memory > CHIP.hbm
    assert 0.87 < by_policy["block"].seconds < 0.88


def test_finished_plans_are_kept(tmp_path, monkeypatch):
    compiled = []

    def plan_step(config, topology, **shape):
        compiled.append((topology, shape))
        return {"fits": True}

    monkeypatch.setattr(planning, "plan_step", plan_step)
    one = candidate("block", 0.2, 1.0)
    for _ in range(2):
        assert cached_plan(tmp_path, one, "v5e:2x2", batch=4, sequence=64) == {"fits": True}
    assert len(compiled) == 1
    cached_plan(tmp_path, one, "v5e:2x2", batch=8, sequence=64)
    cached_plan(tmp_path, candidate("dots", 0.2, 1.0), "v5e:2x2", batch=4, sequence=64)
    assert len(compiled) == 3
    monkeypatch.setattr(planning, "versions", lambda: {"code": "another"})
    cached_plan(tmp_path, one, "v5e:2x2", batch=4, sequence=64)
    assert len(compiled) == 4


def test_meshes_are_tried_from_the_least_exchange_on():
    meshes = candidate_meshes(recurrentgemma_2b(), 16, 16, 8192)
    assert meshes[0] == MeshConfig(data=1, fsdp=16)
    assert meshes[1] == MeshConfig(data=2, fsdp=8)
    assert all(mesh.tensor in (1, 2) for mesh in meshes)  # ten heads
    long = candidate_meshes(recurrentgemma_2b(), 16, 1, 2**20)
    assert long[0] == MeshConfig(data=1, sequence=16)
    with pytest.raises(ValueError, match="no mesh of 7 devices divides 16 rows of 8192 tokens"):
        candidate_meshes(recurrentgemma_2b(), 7, 16, 8192)
