# SPDX-License-Identifier: Apache-2.0
"""The golden model out of every format: what we write of it, and the stored originals.

Logits for one document, packed documents and left padding, and every gradient, of float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from checkpoints import store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint, open_checkpoint
from checkpoints.names import FORMATS
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.params import flat_params
from tests.checkpoints.conftest import GOLDEN, SHARED, assert_same_bits, canonical
from tests.recurrentgemma.models import call

STORED = {
    "huggingface": "hf",
    "huggingface file": "hf/model.safetensors",
    "deepmind-flax": "dm_orbax",
    "deepmind-torch": "dm_torch.pt",
}


@pytest.fixture(scope="module")
def inputs():
    return dict(np.load(GOLDEN / "inputs.npz"))


def assert_golden_logits(model: Griffin, inputs: dict[str, np.ndarray]) -> None:
    truth = dict(np.load(GOLDEN / "logits.npz"))
    for positions, name in {"pos": "full", "seg": "packed", "pad_pos": "padded"}.items():
        where = inputs[positions]
        logits, _ = call(model, jnp.asarray(inputs["tokens"]), positions=jnp.asarray(where))
        real = where >= 0
        assert np.abs(np.asarray(logits)[real] - truth[name][real]).max() < 2e-5, name


@pytest.mark.parametrize("to", FORMATS)
def test_what_we_write(to, golden, inputs, tmp_path):
    if to == "deepmind-torch":
        pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    config, params = golden
    store.write(tmp_path / "ours", dict(params), config)
    convert(tmp_path / "ours", tmp_path / "there", to)
    model, loaded, tokenizer = load_checkpoint(tmp_path / "there")
    assert (loaded, tokenizer) == (config, None)
    assert_same_bits(flat_params(model), params)
    assert_golden_logits(model, inputs)


@pytest.mark.parametrize("fmt", STORED)
def test_the_stored_originals(fmt, golden, inputs):
    if not SHARED.is_dir():
        pytest.skip("the stored originals are not beside this checkout")
    if fmt == "deepmind-torch":
        pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    config, params = golden
    path = SHARED / STORED[fmt]
    if fmt.startswith("deepmind"):
        with pytest.raises(ValueError, match="pass config="):
            load_checkpoint(path)
    model, loaded, _ = load_checkpoint(path, config if fmt.startswith("deepmind") else None)
    assert loaded == config
    assert_same_bits(flat_params(model), params)
    assert_golden_logits(model, inputs)
    assert_golden_gradients(model, inputs)


@functools.partial(jax.jit, static_argnums=0)
def gradients(graphdef, params, batch):
    return jax.grad(lambda p: next_token_loss(nnx.merge(graphdef, p), batch)[0])(params)


def assert_golden_gradients(model: Griffin, inputs: dict[str, np.ndarray]) -> None:
    graphdef, params = nnx.split(model, nnx.Param)
    tokens = jnp.asarray(inputs["tokens"])
    weights = jnp.ones((2, 299), jnp.float32)
    for positions, name in {"pos": "full", "seg": "packed"}.items():
        where = jnp.asarray(inputs[positions])
        batch = Batch(tokens[:, :-1], tokens[:, 1:], weights, where[:, :-1])
        got = flat_params(nnx.merge(graphdef, gradients(graphdef, params, batch)))
        for key, truth in canonical(GOLDEN / f"grads_{name}.npz").items():
            error = np.abs(np.asarray(got[key]) - truth).max() / np.abs(truth).max()
            assert error < 1e-5, f"{name} {key}: relative error {error:.1e}"


def test_opening_reads_nothing_yet(golden, tmp_path):
    config, params = golden
    store.write(tmp_path / "ours", dict(params), config)
    checkpoint = open_checkpoint(tmp_path / "ours")
    assert checkpoint.config == config
    assert {name: spec.shape for name, spec in checkpoint.tensors.items()} == {
        name: array.shape for name, array in params.items()
    }
