# SPDX-License-Identifier: Apache-2.0
"""`griffin plan`. What needs the TPU compiler is skipped where there is none."""

import dataclasses
import json

import pytest

from kernels.measure import tpu_compile
from recurrentgemma import remat
from recurrentgemma.counts import flops_per_token, parameter_count
from recurrentgemma.presets import tiny
from recurrentgemma.sharding import MeshConfig
from training.observe.chips import GIB
from training.planning.floors import PlanError
from training.planning.plan import out_of_memory, plan_step

pytestmark = pytest.mark.usefixtures("compiled_for_users")

needs_libtpu = pytest.mark.skipif(
    tpu_compile.library() is None, reason="libtpu, the TPU compiler, is not installed here"
)
KEYS = {"fits", "bytes_per_device", "flops", "collectives", "step_seconds", "mfu_bound", "mesh"}
SMALL = dataclasses.replace(
    tiny(), vocab_size=1024, dtype="bfloat16", scan_layers=True, remat="block"
)


@needs_libtpu
@pytest.mark.parametrize("batch", [16, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_plan(batch: int):
    """Parameters, moments and FLOPs are what arithmetic says, and each weight is gathered. What the
    loop over layers keeps is told from the rest where it is too much for on-chip memory: with 1,024
    rows."""
    small = dataclasses.replace(SMALL, pattern=("recurrent", "local_attention"), num_layers=4)
    mesh = MeshConfig(data=1, fsdp=2, tensor=2)
    plan = plan_step(small, "v5e:2x2", batch=batch, sequence=256, mesh=mesh)
    assert KEYS | {"remat", "seconds", "tokens_per_second"} <= set(plan)
    assert json.loads(json.dumps(plan)) == plan
    assert plan["fits"]
    memory = plan["bytes_per_device"]
    whole = 4 * parameter_count(small)
    assert whole / 4 <= memory["parameters"] < 1.1 * whole / 4  # norms and biases lie whole
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=1e-3)
    kinds = [kind for kind in memory if kind not in ("total", "limit")]
    assert sum(memory[kind] or 0 for kind in kinds) == memory["total"]
    assert all(memory[kind] is None or memory[kind] > 0 for kind in kinds)
    inputs = 4 * (batch // 2) * 256 * 256 * 2  # of the blocks: B T D in bfloat16
    assert memory["activations"] == (inputs if batch == 1024 else None)
    assert plan["flops"]["model"] == batch * 256 * flops_per_token(small, 256)["training"]
    assert plan["flops"]["per_device"] > plan["flops"]["model"] / 4  # what is recomputed
    assert not any(kind == "all-gather over tensor" for kind in plan["collectives"])
    assert any("over tensor" in kind for kind in plan["collectives"])
    gathered = plan["collectives"]["all-gather over fsdp"]["bytes"]
    weights = 2 * parameter_count(small) / 2 / 2  # half of them over tensor, half of those are here
    assert weights < gathered < 3 * weights  # in the forward pass, and again in the backward one
    assert 0 < plan["mfu_bound"] < 1
    assert plan["step_seconds"] == max(plan["seconds"].values())
    assert plan["hfu_bound"] > plan["mfu_bound"]


@needs_libtpu
def test_a_policy_that_does_not_do_what_it_says(monkeypatch):
    """`dots` that keeps nothing: the program computes all products of the blocks again."""
    monkeypatch.setattr("training.planning.costs.KEPT", dict(remat.KEPT))
    monkeypatch.setitem(remat.KEPT, "dots", ())
    small = dataclasses.replace(SMALL, remat="dots", num_layers=3, num_gate_blocks=1)
    with pytest.raises(PlanError, match=r"matrix products take .* the formula says"):
        plan_step(small, "v5e:2x2", batch=4, sequence=256, mesh=MeshConfig(data=4))


@needs_libtpu
def test_a_plan_that_does_not_fit():
    wide = dataclasses.replace(SMALL, vocab_size=8_000_000)
    plan = plan_step(wide, "v5e:2x2", batch=4, sequence=256, mesh=MeshConfig(data=4))
    assert not plan["fits"]
    assert plan["bytes_per_device"]["total"] > plan["bytes_per_device"]["limit"] == 15.75 * GIB
    assert plan["step_seconds"] is None
    assert plan["mfu_bound"] is None


def test_what_the_compiler_says_of_memory():
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
    message += "temporaries (298.12G) exceeds available HBM (15.75G)."
    assert out_of_memory(message) == 298.12 * GIB
    assert out_of_memory("Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm.") == (
        20.5 * GIB
    )
    assert out_of_memory("INTERNAL: something else") is None
