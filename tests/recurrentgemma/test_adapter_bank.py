# SPDX-License-Identifier: Apache-2.0
"""A row with an adapter of the bank is the model with that adapter; a row without is the model."""

import jax
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.adapter_bank import NONE, AdapterBank, bank_rank
from recurrentgemma.adapters import A, B, adapted_layers, attach
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from tests.recurrentgemma.models import GRIFFIN, make

RANK, SCALE = 3, 0.5
TOKENS = np.random.default_rng(0).integers(0, GRIFFIN.vocab_size, (3, 5))
LAYERS = adapted_layers(GRIFFIN, LoraConfig(rank=RANK))


def adapter(seed: int, kind: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    flat = {}
    for layer, (outputs, inputs) in LAYERS.items():
        if kind in layer:
            flat[f"{layer}/{A}"] = rng.normal(size=(inputs, RANK)).astype(np.float32) / 6
            flat[f"{layer}/{B}"] = rng.normal(size=(RANK, outputs)).astype(np.float32) / 2
    return flat


@pytest.fixture(scope="module")
def bank() -> AdapterBank:
    return AdapterBank(make("griffin"), LAYERS, count=16, rank=bank_rank(RANK))


@pytest.fixture(scope="module")
def run(bank):
    """logits of rows with the adapters in these places, by one call of all tokens or of each."""

    @jax.jit
    def call(params, tokens_BT, state):
        return nnx.merge(bank.graphdef, params)(tokens_BT, state)

    def run(tokens_BT, places, *, at_once=True) -> np.ndarray:
        params = bank.params_for(np.array(places))
        if at_once:
            return np.asarray(call(params, tokens_BT, None)[0])
        state, parts = None, []
        for token_B in tokens_BT.T:
            logits_B1V, state = call(params, token_B[:, None], state)
            parts.append(np.asarray(logits_B1V))
        return np.concatenate(parts, 1)

    return run


@pytest.mark.parametrize("at_once", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_row_has_its_own_adapter(bank, run, at_once):
    first, second = adapter(1), adapter(2, "mlp")
    bank.put(3, first, scale=SCALE)
    bank.put(0, second, scale=SCALE)
    tokens_BT = TOKENS
    logits_BTV = run(tokens_BT, [3, NONE, 0], at_once=at_once)
    for row, flat in enumerate((first, {}, second)):
        model = attach(make("griffin"), flat, scale=SCALE) if flat else make("griffin")
        expected, _ = jax.jit(lambda t, model=model: model(t))(tokens_BT[row : row + 1])
        np.testing.assert_allclose(logits_BTV[row], expected[0], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("at_once", [True, False])
def test_bits_depend_on_no_place_and_on_no_other_adapter(bank, run, at_once):
    tokens_BT = TOKENS
    for place in range(bank.count):
        bank.put(place, {}, scale=1)
    bank.put(1, adapter(1), scale=SCALE)
    alone = run(tokens_BT, [1, NONE, 1], at_once=at_once)
    for place in range(bank.count):
        bank.put(place, adapter(10 + place), scale=3)
    plain = run(tokens_BT, [4, NONE, 5], at_once=at_once)
    np.testing.assert_array_equal(plain[1], alone[1])
    for place in range(bank.count):
        bank.put(place, adapter(1), scale=SCALE)
        moved = run(tokens_BT, [place, (place + 1) % 16, place], at_once=at_once)
        np.testing.assert_array_equal(moved[[0, 2]], alone[[0, 2]])


def test_refusals(bank):
    flat = adapter(1)
    name = next(iter(flat))
    with pytest.raises(UserError, match="no_layer"):
        bank.put(0, {f"no_layer/{A}": flat[name]}, scale=1)
    with pytest.raises(UserError, match="another size"):
        bank.put(0, {name: flat[name][1:]}, scale=1)
    with pytest.raises(UserError, match="rank 9, and this bank takes up to 8"):
        bank.put(0, {name: np.zeros((flat[name].shape[0], 9))}, scale=1)


def test_ranks_are_powers_of_two():
    assert [bank_rank(rank) for rank in (1, 8, 9, 16, 17)] == [8, 8, 16, 16, 32]


def test_putting_compiles_once_for_a_shape(bank):
    bank.warm_up()
    before = bank._put._cache_size()
    bank.put(5, adapter(4), scale=2)
    assert bank._put._cache_size() == before
    assert bank.nbytes == 4 * bank.count * bank.rank * sum(map(sum, LAYERS.values()))
