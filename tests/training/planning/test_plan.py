# SPDX-License-Identifier: Apache-2.0
"""`griffin plan`. What needs the TPU compiler is skipped where there is none."""

import dataclasses
import json

import pytest

from kernels.measure import tpu_compile
from recurrentgemma.counts import flops_per_token, parameter_count
from recurrentgemma.presets import recurrentgemma_2b, tiny
from recurrentgemma.sharding import MeshConfig
from training.observe.chips import GIB
from training.planning import plan_cli
from training.planning.plan import candidate_meshes, out_of_memory, plan
from training.planning.serving_plan import plan_serving

needs_libtpu = pytest.mark.skipif(
    tpu_compile.library() is None, reason="libtpu, the TPU compiler, is not installed here"
)
KEYS = {"fits", "bytes_per_device", "flops", "collectives", "step_seconds", "mfu_bound", "mesh"}
SMALL = dataclasses.replace(
    tiny(), vocab_size=1024, dtype="bfloat16", scan_layers=True, remat="block"
)


@needs_libtpu
def test_a_plan():
    """Parameters, moments and FLOPs are what arithmetic says, and each weight is gathered."""
    mesh = MeshConfig(data=1, fsdp=2, tensor=2)
    found = plan(SMALL, "v5e:2x2", batch=32, sequence=1024, mesh=mesh)
    assert KEYS | {"remat", "seconds", "tokens_per_second"} <= set(found)
    assert json.loads(json.dumps(found)) == found
    assert found["fits"]
    memory = found["bytes_per_device"]
    whole = 4 * parameter_count(SMALL)
    assert whole / 4 <= memory["parameters"] < 1.1 * whole / 4  # norms and biases lie whole
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=1e-3)
    kinds = [kind for kind in memory if kind not in ("total", "limit")]
    assert sum(memory[kind] for kind in kinds) == memory["total"]
    inputs = 6 * 16 * 1024 * 256 * 2  # of the blocks: B T D in bfloat16
    assert memory["activations"] == inputs
    assert found["flops"]["model"] == 32 * 1024 * flops_per_token(SMALL, 1024)["training"]
    assert found["flops"]["per_device"] > found["flops"]["model"] / 4  # what is recomputed
    assert not any(kind == "all-gather over tensor" for kind in found["collectives"])
    assert any("over tensor" in kind for kind in found["collectives"])
    gathered = found["collectives"]["all-gather over fsdp"]["bytes"]
    weights = 2 * parameter_count(SMALL) / 2 / 2  # half of them over tensor, half of those are here
    assert weights < gathered < 3 * weights  # in the forward pass, and again in the backward one
    assert 0 < found["mfu_bound"] < 1
    assert found["step_seconds"] == max(found["seconds"].values())


@needs_libtpu
def test_a_plan_that_does_not_fit():
    wide = dataclasses.replace(SMALL, vocab_size=8_000_000)
    found = plan(wide, "v5e:2x2", batch=4, sequence=256, mesh=MeshConfig(data=4))
    assert not found["fits"]
    assert found["bytes_per_device"]["total"] > found["bytes_per_device"]["limit"] == 15.75 * GIB
    assert found["step_seconds"] is None
    assert found["mfu_bound"] is None


@needs_libtpu
def test_a_plan_of_serving():
    """Memory traffic is at least the parameters and the state: what a token must read."""
    config = dataclasses.replace(SMALL, scan_layers=False, param_dtype="bfloat16")
    found = plan_serving(config, "v5e:2x2", slots=8, mesh=MeshConfig(data=2, tensor=2))
    memory = found["bytes_per_device"]
    assert found["fits"]
    assert memory["parameters"] == pytest.approx(2 * parameter_count(config) / 2, rel=0.1)
    assert found["seconds"]["memory"] > memory["state"] / 2 / 819e9
    with pytest.raises(ValueError, match=r"decoding takes one token at a time"):
        plan_serving(config, "v5e:2x2", slots=4, mesh=MeshConfig(data=2, sequence=2))


@needs_libtpu
def test_the_command(capsys):
    argv = ["tiny", "--topology", "v5e:2x2", "--serve", "--slots", "4"]
    assert plan_cli.main([*argv, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= KEYS
    with pytest.raises(ValueError, match=r"topology 'v5e:3x7': the TPU compiler refuses it"):
        plan_cli.main(["tiny", "--topology", "v5e:3x7", "--batch", "8"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing", "--topology", "v5e:2x2", "--batch", "8"], "unknown preset 'nothing'"),
        (["tiny", "--topology", "h100:8", "--batch", "8"], "with a chip of v5e, v5p, v6e"),
        (["tiny", "--topology", "v5e:2x2"], "--batch is missing: say how many rows"),
        (["tiny", "--topology", "v5e:2x2", "--slots", "4"], "--slots 4 means nothing without --se"),
        (["tiny", "--topology", "v5e:2x2", "--serve", "--batch", "4"], "--batch 4 means nothing w"),
        (["tiny", "--topology", "v5e:0x2", "--batch", "8"], "expected CHIP:AxB or CHIP:AxBxC"),
        (
            ["tiny", "--topology", "v5e:32x32", "--batch", "8"],
            "v5e have 2 dimensions and at most 1",
        ),
        (
            ["tiny", "--topology", "v5p:4x4", "--batch", "8"],
            "v5p have 3 dimensions and at most 16x",
        ),
        (
            ["tiny", "--topology", "v5e:2x2", "--serve"],
            "--slots is missing: say how many sequences",
        ),
        (
            ["tiny", "--topology", "v5e:2x2", "--serve", "--slots", "4", "--search"],
            "nothing to search",
        ),
    ],
)
def test_bad_input(argv, message):
    with pytest.raises(ValueError, match=message):
        plan_cli.main(argv)


def test_meshes_are_tried_from_the_least_exchange_on():
    found = candidate_meshes(recurrentgemma_2b(), 16, 16, 8192)
    assert found[0] == MeshConfig(data=1, fsdp=16)
    assert found[1] == MeshConfig(data=2, fsdp=8)
    assert all(mesh.tensor in (1, 2) for mesh in found)  # ten heads
    assert candidate_meshes(recurrentgemma_2b(), 16, 1, 2**20)[0] == MeshConfig(data=1, sequence=16)
    with pytest.raises(ValueError, match="no mesh of 7 devices divides 16 rows of 8192 tokens"):
        candidate_meshes(recurrentgemma_2b(), 7, 16, 8192)


def test_choosing():
    def tried(fits, seconds, total):
        return {"fits": fits, "step_seconds": seconds, "bytes_per_device": {"total": total}}

    slow, fast, large = tried(True, 2.0, 5), tried(True, 1.0, 9), tried(False, None, 99)
    assert plan_cli.choose([slow, large, fast]) is fast
    assert plan_cli.choose([large, tried(False, None, 100)]) is large


def test_what_the_compiler_says_of_memory():
    said = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
    said += "temporaries (298.12G) exceeds available HBM (15.75G)."
    assert out_of_memory(said) == 298.12 * GIB
    assert out_of_memory("Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm.") == (
        20.5 * GIB
    )
    assert out_of_memory("INTERNAL: something else") is None
