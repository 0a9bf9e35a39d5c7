# SPDX-License-Identifier: Apache-2.0
"""Logits, decoding and every gradient against float64 values of DeepMind's code (tests/golden)."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.params import flat_params, from_flat_params
from tests.recurrentgemma.models import call

pytestmark = pytest.mark.usefixtures("compiled_for_users")

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CONFIG = GriffinConfig(
    width=64,
    mlp_width=192,
    num_layers=6,
    lru_width=96,
    num_gate_blocks=2,
    num_heads=2,
    head_dim=32,
    vocab_size=128,
    attention_window=64,
    scale_embeddings=True,
    logits_soft_cap=30.0,
)


def split_mlp(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """DeepMind's arrays as ours: its fused MLP weight is two, its kernels are transposed."""
    ours = {}
    for name, value in flat.items():
        if name.endswith("ffw_up/w"):
            ours[name.replace("ffw_up/w", "ffw_gate/weight")] = value[0].T
            ours[name.replace("ffw_up/w", "ffw_up/weight")] = value[1].T
        elif name.endswith("ffw_up/b"):
            ours[name.replace("ffw_up/b", "ffw_gate/bias")] = value[0, 0, 0]
            ours[name.replace("ffw_up/b", "ffw_up/bias")] = value[1, 0, 0]
        elif name.endswith("kernel"):
            ours[name.replace("kernel", "weight")] = value.T
        else:
            ours[name] = value
    return ours


def load(**changes) -> Griffin:
    flat = split_mlp(dict(np.load(GOLDEN / "params.npz")))
    flat = {name: jnp.asarray(value) for name, value in flat.items()}
    return from_flat_params(dataclasses.replace(CONFIG, **changes), flat)


INPUTS = dict(np.load(GOLDEN / "inputs.npz"))
LOGITS = dict(np.load(GOLDEN / "logits.npz"))


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(
    ("positions", "logits"), [("pos", "full"), ("seg", "packed"), ("pad_pos", "padded")]
)
def test_logits(positions: str, logits: str, scan_layers: bool):
    model = load(scan_layers=scan_layers)
    where = INPUTS[positions]
    got, _ = call(model, INPUTS["tokens"], positions=where)
    error = np.abs(np.asarray(got, np.float64) - LOGITS[logits])
    assert error[where >= 0].max() < 2e-5


@pytest.mark.parametrize("positions", ["pos", "seg"])
def test_prefill_and_decode(positions: str):
    model = load()
    tokens, where = INPUTS["tokens"], INPUTS[positions]
    logits, state = call(model, tokens[:, :100], positions=where[:, :100])
    pieces = [logits]
    for t in range(100, 300):
        step = slice(t, t + 1)
        given = {"positions": where[:, step]} if positions == "seg" else {}
        logits, state = call(model, tokens[:, step], state, **given)
        pieces.append(logits)
    want = LOGITS["full" if positions == "pos" else "packed"]
    assert np.abs(np.concatenate(pieces, 1) - want).max() < 2e-5


@functools.partial(jax.jit, static_argnums=0)
def gradients(graphdef, params, batch):
    return jax.grad(lambda p: next_token_loss(nnx.merge(graphdef, p), batch)[0])(params)


@pytest.mark.parametrize(
    ("positions", "golden", "scan_layers", "remat"),
    [
        ("pos", "full", False, "none"),
        ("seg", "packed", False, "none"),
        pytest.param("seg", "packed", False, "dots", marks=pytest.mark.slow),
        pytest.param("seg", "packed", True, "none", marks=pytest.mark.slow),
        ("seg", "packed", True, "block"),
    ],
)
def test_gradients(positions: str, golden: str, scan_layers: bool, remat: str):
    model = load(scan_layers=scan_layers, remat=remat)
    tokens, where = INPUTS["tokens"], INPUTS[positions]
    batch = Batch(
        jnp.asarray(tokens[:, :-1]),
        jnp.asarray(tokens[:, 1:]),
        jnp.ones((2, 299), jnp.float32),
        jnp.asarray(where[:, :-1]),
    )
    graphdef, params = nnx.split(model, nnx.Param)
    got = flat_params(nnx.merge(graphdef, gradients(graphdef, params, batch)))
    want = split_mlp(dict(np.load(GOLDEN / f"grads_{golden}.npz")))
    for name, value in want.items():
        error = np.abs(np.asarray(got[name], np.float64) - value).max() / np.abs(value).max()
        assert error < 1e-5, f"{name}: relative error {error:.1e}"
