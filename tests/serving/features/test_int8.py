# SPDX-License-Identifier: Apache-2.0
"""The model of the rounded weights, beside adapters too, and nothing else is rounded."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from recurrentgemma.adapter_bank import AdapterBank
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.params import flat_params, from_flat_params
from serving.engine.engine import Engine
from serving.features.int8 import held_bytes, with_int8
from tests.drawn import untrained
from tests.serving.features.test_adapters import PROMPT, adapter, answers, request_of, tokens


@pytest.fixture(scope="module")
def int8(griffin) -> LanguageModel:
    return with_int8(griffin.lm)


def rounded(lm: LanguageModel) -> LanguageModel:
    """With weights that are rounded and stay float32."""
    flat = dict(flat_params(lm.model))
    for name in [name for name in flat if name.endswith("/weight")]:
        weight_JI = jnp.asarray(flat[name], jnp.float32)
        flat[name] = qwix.dequantize(qwix.quantize(weight_JI, jnp.int8, channelwise_axes=(0,)))
    return LanguageModel(from_flat_params(lm.config, flat), lm.tokenizer)


def test_it_is_the_model_of_the_rounded_weights(griffin, int8):
    ids = PROMPT[:60]
    scores = int8.score(ids)
    np.testing.assert_allclose(scores, rounded(griffin.lm).score(ids), atol=1e-4)
    plain = griffin.lm.score(ids)
    assert 0 < np.abs(scores - plain).max() < 0.2
    embeddings = griffin.lm.config.vocab_size * griffin.lm.config.width * 4
    assert held_bytes(int8) < embeddings + (held_bytes(griffin.lm) - embeddings) / 2


def test_an_engine_serves_it_beside_adapters(griffin, int8):
    bank = AdapterBank(int8.model, griffin.adapters.bank.layers, count=2, rank=8)
    engine = Engine(int8, slots=3, bank=bank)
    assert engine.adapters is not None
    engine.adapters.add("x", adapter(engine, 1), scale=1.5)
    base, of_x = request_of(engine, PROMPT), request_of(engine, PROMPT, "x")
    first, second = answers(engine, [base, of_x])
    assert tokens(first) == int8.complete([PROMPT], sampling=base.sampling)[0].tokens
    assert tokens(second) != tokens(first)


def test_scanned_layers(griffin):
    config = dataclasses.replace(griffin.lm.config, scan_layers=True)
    with pytest.raises(UserError, match="scan_layers"):
        with_int8(LanguageModel(untrained(config)))
