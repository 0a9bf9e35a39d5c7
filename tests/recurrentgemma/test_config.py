# SPDX-License-Identifier: Apache-2.0
"""Configurations and presets: sizes, counts, JSON, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import (
    flops_per_token,
    parameter_count,
    parameters_by_part,
    state_bytes,
)
from recurrentgemma.griffin import Griffin
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.presets import PRESETS, preset
from tests.recurrentgemma.models import GRIFFIN, call, make, tokens

# Millions of parameters without the embedding (Griffin paper, table 2, with 16 gate blocks).
PAPER = {
    "griffin": dict(
        zip(
            ["100m", "200m", "400m", "1b", "3b", "7b", "14b"],
            (89.3, 163.0, 355.3, 1242.9, 2834.6, 6790, 13764),
            strict=True,
        )
    ),
    "hawk": dict(
        zip(
            ["100m", "200m", "400m", "1b", "3b", "7b"],
            (93.8, 173.7, 374.8, 1304.2, 2996.5, 7176),
            strict=True,
        )
    ),
    "mqa": dict(
        zip(
            ["100m", "200m", "400m", "1b", "3b", "7b"],
            (80.3, 141.7, 316.3, 1120.4, 2511.0, 5940),
            strict=True,
        )
    ),
}


@pytest.mark.parametrize(
    ("name", "millions"),
    [(f"{kind}_{size}", count) for kind, sizes in PAPER.items() for size, count in sizes.items()],
)
def test_sizes_of_the_griffin_paper(name: str, millions: float):
    config = preset(name)
    body = parameter_count(config) - config.vocab_size * config.width
    assert body / 1e6 == pytest.approx(millions, rel=1e-3)


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


def test_json_there_and_back():
    for function in PRESETS.values():
        text = json.dumps(function().to_json())
        assert GriffinConfig.from_json(json.loads(text)) == function()


def test_scanned_and_unrolled_models_share_parameters():
    model = make("griffin")
    scanned = from_flat_params(dataclasses.replace(GRIFFIN, scan_layers=True), flat_params(model))
    assert {k: v.shape for k, v in flat_params(scanned).items()} == param_shapes(GRIFFIN)
    for name, value in flat_params(scanned).items():
        np.testing.assert_array_equal(value, flat_params(model)[name])
    logits, state = call(model, tokens(0, 2, 12))
    scanned_logits, scanned_state = scanned(tokens(0, 2, 12))
    np.testing.assert_allclose(scanned_logits, logits, rtol=0, atol=2e-5)
    assert jax.tree.structure(scanned_state) == jax.tree.structure(state)


@pytest.mark.parametrize("a_init", ["code", "paper"])
def test_initial_decay(a_init: str):
    config = dataclasses.replace(rg.tiny(), num_layers=1, lru_width=4096, a_init=a_init)
    model = Griffin(config, rngs=nnx.Rngs(0))
    a_param = flat_params(model)["blocks.0/recurrent_block/rg_lru/a_param"]
    a = np.exp(-np.asarray(jax.nn.softplus(a_param)))
    drawn = a if a_init == "code" else a**8
    assert 0.9 <= drawn.min() < 0.901
    assert 0.998 < drawn.max() <= 0.999001
    power = 2 if a_init == "code" else 1  # a^2 is uniform in the code, a^8 in the paper
    middle = (0.9**power + 0.999**power) / 2
    assert np.mean(drawn**power) == pytest.approx(middle, abs=0.003)


def test_initial_standard_deviations():
    """DeepMind's JAX code: fan-in over the block axis of the gates, both MLP branches counted."""
    config = dataclasses.replace(rg.tiny(), num_layers=3)
    flat = flat_params(Griffin(config, rngs=nnx.Rngs(0)))
    expected = {
        "embedder/input_embedding": 256**-0.5,
        "blocks.0/recurrent_block/linear_x/weight": 256**-0.5,
        "blocks.0/recurrent_block/linear_out/weight": (2 / 3 / 256) ** 0.5,
        "blocks.0/recurrent_block/conv_1d/w": 0.05,
        "blocks.0/recurrent_block/rg_lru/a_gate/w": 256**-0.5,
        "blocks.2/attention_block/proj_k/weight": 256**-0.5,
        "blocks.2/attention_block/proj_final/weight": (2 / 3 / 256) ** 0.5,
        "blocks.0/mlp_block/ffw_up/weight": (2 * 256) ** -0.5,
        "blocks.0/mlp_block/ffw_down/weight": (2 / 3 / 768) ** 0.5,
    }
    for name, std in expected.items():
        assert np.std(flat[name]) == pytest.approx(std, rel=0.05), name
    assert not any(np.any(flat[name]) for name in flat if name.endswith(("scale", "bias", "/b")))


def test_refused_configurations():
    with pytest.raises(ValueError, match=r"unknown preset 'griffin_8b' \(did you mean 'griffin_"):
        preset("griffin_8b")
    with pytest.raises(ValueError, match=r"unknown GriffinConfig field 'widht' \(did you mean 'wi"):
        GriffinConfig.from_json({**GRIFFIN.to_json(), "widht": 3})
    with pytest.raises(ValueError, match="lacks the fields: width"):
        GriffinConfig.from_json({k: v for k, v in GRIFFIN.to_json().items() if k != "width"})
    for change, message in (
        ({"width": 0}, "width=0: expected a whole number of at least 1"),
        ({"num_gate_blocks": 5}, "num_gate_blocks=5 does not divide lru_width=48"),
        ({"pattern": ()}, "at least one block type"),
        ({"pattern": "recurrent"}, "pattern='recurrent': expected a tuple of block types"),
        ({"logits_soft_cap": "x"}, "logits_soft_cap='x': expected a positive number"),
        ({"logits_soft_cap": float("inf")}, "logits_soft_cap=inf: expected a positive number"),
        ({"pattern": ("mamba",)}, "pattern='mamba': expected one of 'recurrent'"),
        ({"dtype": "float16"}, "dtype='float16': expected one of 'float32', 'bfloat16'"),
        ({"remat": "all"}, "remat='all': expected one of"),
        ({"head_dim": 18}, "head_dim=18: expected a multiple of 4"),
        ({"logits_soft_cap": 0.0}, "logits_soft_cap=0.0: expected a positive number, or None"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(GRIFFIN, **change)
