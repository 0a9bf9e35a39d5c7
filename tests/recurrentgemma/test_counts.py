# SPDX-License-Identifier: Apache-2.0
"""Counts by arithmetic against the module's own arrays, and against published ones."""

import dataclasses

import jax
import pytest
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.counts import (
    flops_per_token,
    parameter_count,
    parameters_by_part,
    state_bytes,
)
from recurrentgemma.griffin import Griffin
from recurrentgemma.presets import preset
from tests.recurrentgemma.models import GRIFFIN


def test_recurrentgemma_is_exact():
    assert parameter_count(rg.recurrentgemma_2b()) == 2_682_862_080
    assert parameter_count(rg.recurrentgemma_9b()) == 8_579_977_216
    assert rg.recurrentgemma_2b().block_types.count("recurrent") == 18
    assert rg.recurrentgemma_9b().block_types.count("local_attention") == 12
    assert sum(parameters_by_part(rg.recurrentgemma_2b()).values()) == 2_682_862_080


@pytest.mark.parametrize("name", ["recurrentgemma_2b", "griffin_14b", "hawk_7b", "mqa_7b", "tiny"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_counts_are_those_of_the_module(name: str, scan_layers: bool):
    config = dataclasses.replace(preset(name), scan_layers=scan_layers)
    model = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameter_count(config)


def test_state_bytes_are_those_of_the_state():
    for config in (GRIFFIN, rg.tiny(), dataclasses.replace(rg.tiny(), dtype="bfloat16")):
        state = rg.init_state(config, 1)
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == state_bytes(config)
    # DeepMind's cache, less a counter for each of the 8 attention layers, plus our one position.
    in_bfloat16 = dataclasses.replace(rg.recurrentgemma_2b(), dtype="bfloat16")
    assert rg.state_bytes(in_bfloat16) == 17_238_048 - 8 * 4 + 2 * 4


def test_flops_are_two_per_parameter_of_a_product():
    config = rg.recurrentgemma_2b()
    flops = flops_per_token(config)
    assert flops["matmul"] == pytest.approx(2 * parameter_count(config), rel=2e-3)
    assert flops_per_token(config, 1)["attention"] == 4 * 10 * 256 * 8  # itself only
    assert flops["training"] == 3 * flops["forward"]
