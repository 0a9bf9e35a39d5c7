# SPDX-License-Identifier: Apache-2.0
"""What `remat="auto"` becomes, by the memory of the devices."""

import dataclasses
import functools

import jax
import pytest

from kernels.measure import tpu_compile
from recurrentgemma.presets import recurrentgemma_2b, tiny
from recurrentgemma.remat import POLICIES
from recurrentgemma.sharding import MeshConfig, make_mesh
from training.named_runs import run_named
from training.planning import fit, plan
from training.planning.costs import training_flops

AUTO = dataclasses.replace(recurrentgemma_2b(), dtype="bfloat16", remat="auto")


def chosen(monkeypatch, gigabytes: float, **options) -> str:
    monkeypatch.setattr(fit, "memory_limit", lambda devices: gigabytes * 2**30)
    return fit.fitting(AUTO, **{"rows": 1, "sequence": 8192, **options}).remat


def test_more_memory_recomputes_less(monkeypatch):
    order = [POLICIES.index(chosen(monkeypatch, gigabytes)) for gigabytes in range(10, 120, 2)]
    assert order == sorted(order)
    assert POLICIES[order[0]] == "block"  # nothing fits: the step itself says so
    assert POLICIES[order[-1]] == "none"
    assert len(set(order)) >= 5


def test_what_counts(monkeypatch):
    """Longer rows, a sum of gradients and a reference model need more; adapters alone, and a mesh,
    less."""
    order = {
        name: POLICIES.index(chosen(monkeypatch, 56, **options))
        for name, options in {
            "usual": {},
            "long": {"sequence": 16_384},
            "accumulated": {"parts": 2},
            "reference": {"beside": 8 * 2**30},
            "adapters": {"trained": 0},
            "mesh": {"mesh": make_mesh(MeshConfig(data=1, fsdp=8)), "rows": 8},
        }.items()
    }
    assert order["long"] < order["usual"] < order["adapters"]
    assert order["reference"] < order["usual"] < order["mesh"]
    assert order["accumulated"] < order["usual"]


def test_a_named_policy_stays():
    config = dataclasses.replace(AUTO, remat="mixer")
    assert fit.fitting(config, rows=10**6, sequence=10**6) is config
    assert tiny().remat == "none"  # of a model that is not trained


@pytest.mark.parametrize("name", ["demo", "tiny_bytes", "griffin_100m"])
def test_training_takes_auto_and_small_models_recompute_nothing_here(name: str):
    config = run_named(name)
    assert config.model.remat == "auto"
    if name != "griffin_100m":
        rows, sequence = config.batch_size, config.sequence_length
        assert fit.fitting(config.model, rows=rows, sequence=sequence).remat == "none"
    assert fit.memory_limit(jax.devices()[:1]) > 2**30


def test_a_control_group_limits_the_memory(monkeypatch, tmp_path):
    group = tmp_path / "memory.max"
    monkeypatch.setattr(fit, "CONTROL_GROUP", group)
    whole = fit.memory_limit(jax.devices()[:2])
    assert whole == fit.memory_limit(jax.devices()[:1]) / 2
    group.write_text("2048\n")
    assert fit.memory_limit(jax.devices()[:2]) == 1024
    group.write_text("max\n")
    assert fit.memory_limit(jax.devices()[:2]) == whole


def test_a_device_says_what_it_has():
    class Device:
        process_index = jax.process_index()

        def __init__(self, limit: int):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    assert fit.memory_limit([Device(3 * 2**30), Device(2**31)]) == 2**31


def test_on_a_tpu_the_compiler_has_the_last_word():
    """Wherever the estimate has it begin. Where memory is short, the compiler repeats so much that
    a policy which keeps less has fewer products."""
    nothing = fit.Products(float("inf"), 0)
    roomy = {"block": 1.6, "outputs": 1.5, "mixer": 1.4, "half_mlp": 1.2}
    for repeated, best in ((0.0, "half_mlp"), (0.5, "mixer")):
        for begin in ("block", "outputs", "mixer", "half_mlp", "mlp"):
            compiled = []

            def compile_one(remat: str, compiled=compiled, repeated=repeated) -> fit.Products:
                compiled.append(remat)
                again = repeated if remat == "half_mlp" else 0
                return fit.Products(roomy[remat] + again, again) if remat in roomy else nothing

            index = fit.compiled_choice(POLICIES.index(begin), compile_one)
            assert POLICIES[index] == best
            assert len(compiled) == len(set(compiled)) <= 5
    assert fit.compiled_choice(3, lambda remat: nothing) == 0
    assert fit.compiled_choice(0, lambda remat: nothing) == 0
    assert fit.compiled_choice(0, lambda remat: fit.Products(1, 0)) == len(POLICIES) - 1


@pytest.mark.skipif(tpu_compile.library() is None, reason="libtpu is not installed here")
def test_products_of_a_step_that_fits_and_of_one_that_does_not(monkeypatch):
    config = dataclasses.replace(
        tiny(), vocab_size=1024, dtype="bfloat16", pattern=("recurrent",), num_layers=1
    )
    mesh = plan.lay("v5e:2x2", MeshConfig(data=4))
    for name in ("lower_step", "compile_step"):  # the program is the same for both
        monkeypatch.setattr(plan, name, functools.cache(getattr(plan, name)))
    flops, repeated = fit._products(config, "block", mesh, 4, 256, 2, 2.0**34)
    assert repeated == 0
    formula = training_flops(dataclasses.replace(config, remat="block"), 8, 256, mesh.shape)
    assert flops == pytest.approx(formula["products"], rel=0.02)
    assert fit._products(config, "block", mesh, 4, 256, 2, 2.0**20).flops == float("inf")
