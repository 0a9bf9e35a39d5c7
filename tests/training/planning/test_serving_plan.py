# SPDX-License-Identifier: Apache-2.0
"""A plan of decoding. Needs the TPU compiler, and is skipped where there is none."""

import dataclasses

import pytest

from kernels.measure import tpu_compile
from recurrentgemma.counts import parameter_count
from recurrentgemma.presets import tiny
from recurrentgemma.sharding import MeshConfig
from training.planning.serving_plan import plan_serving

needs_libtpu = pytest.mark.skipif(
    tpu_compile.library() is None, reason="libtpu, the TPU compiler, is not installed here"
)


@needs_libtpu
def test_a_plan_of_serving():
    """Memory traffic is at least the parameters and the state: what a token must read."""
    config = dataclasses.replace(tiny(), vocab_size=1024, dtype="bfloat16", param_dtype="bfloat16")
    plan = plan_serving(config, "v5e:2x2", slots=8, mesh=MeshConfig(data=2, tensor=2))
    memory = plan["bytes_per_device"]
    assert plan["fits"]
    assert memory["parameters"] == pytest.approx(2 * parameter_count(config) / 2, rel=0.1)
    assert plan["seconds"]["memory"] >= (memory["parameters"] + memory["state"]) / 819e9
    with pytest.raises(ValueError, match=r"decoding takes one token at a time"):
        plan_serving(config, "v5e:2x2", slots=4, mesh=MeshConfig(data=2, sequence=2))
