# SPDX-License-Identifier: Apache-2.0
"""LoRA: it starts as the base, leaves the base alone, learns, merges, and is the same on a mesh."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from checkpoints.adapters import from_flat
from checkpoints.adapters import merged as add_adapters
from checkpoints.open_checkpoint import OpenCheckpoint, StoredTensor, read_params
from recurrentgemma.adapters import adapted_layers, flat_adapters
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.params import flat_params, from_flat_params, replaced
from tests.drawn import untrained
from tests.recurrentgemma.models import call
from tests.training.small_rows import CONFIG
from training.data.batches import pack
from training.data.document import Document
from training.finetuning.lora import (
    LoraConfig,
    adapt,
    split,
)
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step

LORA = LoraConfig(rank=4, alpha=8.0)
FORMS = {
    "float32": {},
    "bfloat16 parameters": {"dtype": "bfloat16", "param_dtype": "bfloat16"},
    "scanned, recomputed": {"scan_layers": True, "remat": "block"},
}
TOKENS = np.arange(40).reshape(2, 20) * 7 % 64
LINEAR = (3 + 3) + (4 + 3)  # layers of a recurrent and an attention block, with their MLPs


def form(name: str) -> GriffinConfig:
    return dataclasses.replace(CONFIG, **FORMS[name])


def moved(model: Griffin) -> Griffin:
    """With adapters as training leaves them: B is not zero any more."""
    graphdef, adapters, frozen = split(model)
    wave = {
        name: value + 0.02 * jnp.sin(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
        for name, value in flat_adapters(model).items()
    }
    return nnx.merge(graphdef, replaced(model.config, adapters, wave), frozen)


def merged(base: Griffin, adapted: Griffin) -> dict[str, jax.Array]:
    """The base's parameters with the adapters added, as `griffin merge` adds them."""
    flat = jax.tree.map(np.asarray, flat_params(base))
    tensors = {name: StoredTensor(array.shape, array.dtype.name) for name, array in flat.items()}
    checkpoint = OpenCheckpoint(
        Path("base"), "griffin", tensors, lambda dtype: iter(flat.items()), base.config
    )
    pairs = from_flat(Path("adapter"), flat_adapters(adapted), alpha=LORA.alpha, base="base")
    params = read_params(add_adapters(checkpoint, pairs), base.config.param_dtype)
    return {name: jnp.asarray(array) for name, array in params}


@pytest.mark.parametrize(
    "name",
    [pytest.param("float32", marks=pytest.mark.slow), "bfloat16 parameters", "scanned, recomputed"],
)
def test_it_starts_as_the_base_and_merges_into_what_it_became(name):
    config = form(name)
    base = untrained(config)
    model = adapt(base, LORA, seed=1)
    assert len(flat_adapters(model)) == 2 * LINEAR
    start, _ = call(base, TOKENS)
    np.testing.assert_allclose(call(model, TOKENS)[0], start, atol=2e-5)
    model = moved(model)
    logits, state = call(model, TOKENS)
    assert float(jnp.abs(logits - start).max()) > 0.1
    plain = from_flat_params(config, merged(base, model))
    tolerance = 2e-5 if config.dtype == "float32" else 0.1
    got, got_state = call(plain, TOKENS)
    np.testing.assert_allclose(got, logits, atol=tolerance)
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.shape, y.shape), got_state, state)
    assert {str(leaf.dtype) for leaf in flat_params(plain).values()} == {config.param_dtype}
    assert {str(leaf.dtype) for leaf in flat_adapters(model).values()} == {"float32"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Qwix 0.1.8 uses Flax's former names
def test_qwix_by_itself_does_not_see_all_our_products():
    """Why GriffinLora intercepts layers: of those of an MLP that share their input, whose products
    go by another way in float32, none would be adapted."""
    provider = qwix.LoraProvider(module_path=".*", rank=4, alpha=8.0)
    base = untrained(form("float32"))
    adapted = qwix.apply_lora_to_model(base, provider, TOKENS, rngs=nnx.Rngs(0))
    adapters = nnx.to_flat_state(nnx.state(adapted, nnx.LoRAParam))
    assert len(adapters) < 2 * LINEAR


def test_decoding_goes_on_from_a_state():
    """The state contract holds for an adapted model: in chunks as in one call."""
    model = moved(adapt(untrained(CONFIG), LORA, seed=1))
    whole, _ = call(model, TOKENS)
    first, state = call(model, TOKENS[:, :7])
    second, _ = call(model, TOKENS[:, 7:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=2e-5)


def test_the_first_values_do_not_depend_on_how_layers_are_held():
    values = [
        flat_adapters(adapt(untrained(form(name)), LORA, seed=1))
        for name in ("float32", "scanned, recomputed")
    ]
    for name, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][name])
    a = values[0]["blocks.0/mlp_block/ffw_up/weight_lora_a"]
    assert a.shape == (CONFIG.width, LORA.rank)
    assert float(jnp.abs(a).max()) > 0
    assert not values[0]["blocks.0/mlp_block/ffw_up/weight_lora_b"].any()
    assert not np.array_equal(a, values[0]["blocks.1/mlp_block/ffw_up/weight_lora_a"])


def test_layers_are_chosen_by_name():
    only = LoraConfig(rank=2, layers=r".*/proj_[qv]|blocks\.0/.*_up")
    assert sorted(adapted_layers(CONFIG, only)) == [
        "blocks.0/mlp_block/ffw_up",
        "blocks.1/attention_block/proj_q",
        "blocks.1/attention_block/proj_v",
    ]
    model = adapt(untrained(CONFIG), only, seed=0)
    assert len(flat_adapters(model)) == 6
    every = adapted_layers(CONFIG, LORA)
    assert len(every) == LINEAR
    assert not any(word in name for name in every for word in ("embed", "norm", "rg_lru", "conv"))
    call(model, TOKENS)


@pytest.mark.parametrize(
    ("fields", "config", "message"),
    [
        ({"layers": "proj_q"}, CONFIG, "is the name of no linear layer; they are blocks.0/rec"),
        ({"layers": ".*/a_gate"}, CONFIG, "is the name of no linear layer"),
        ({"rank": 33}, CONFIG, "lora.rank=33 is larger than 32, a side of blocks.0/recurrent"),
        (
            {"layers": r"blocks\.[0-2]/.*", "rank": 2},
            dataclasses.replace(CONFIG, num_layers=6, scan_layers=True),
            "chooses blocks.0/.* and not blocks.4/.* set model.scan_layers=False",
        ),
    ],
)
def test_what_cannot_be(fields, config, message):
    with pytest.raises(ValueError, match=message):
        adapt(
            nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))), LoraConfig(**fields), seed=0
        )


def test_the_plain_parameters_of_an_adapted_model_are_not_taken_for_all_of_it():
    model = adapt(untrained(CONFIG), LORA, seed=0)
    with pytest.raises(ValueError, match="parameters that no Griffin has"):
        flat_params(model)


@pytest.mark.parametrize("rows", [1, 8])  # the head takes 64 tokens at once, and 512 in chunks
def test_without_the_gradient_of_the_frozen(rows: int):
    """The head makes its embedding's gradient with its loss; unused, it is not in the program."""
    config = dataclasses.replace(CONFIG, num_layers=1, vocab_size=72)
    model = adapt(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))), LORA, seed=1)
    batch = jax.tree.map(lambda x: jnp.tile(x, (rows, 1)), examples(("a", "b")))

    def made_of_its_shape(graphdef, params, *frozen) -> list[str]:
        def loss(params, frozen):
            return next_token_loss(nnx.merge(graphdef, params, *frozen), batch)[0]

        text = jax.jit(jax.grad(loss)).lower(params, frozen).compile().as_text()
        assert text is not None
        return re.findall(rf" = f32\[{config.vocab_size},{config.width}\]\S* (?!parameter)", text)

    assert made_of_its_shape(*nnx.split(model, nnx.Param))
    assert not made_of_its_shape(*split(model))


def examples(*pairs: tuple[str, str]) -> Batch:
    """Prompts and responses of characters; only the responses are learned from."""
    documents = []
    for prompt, response in pairs:
        ids = np.frombuffer(f"\1{prompt}{response}\2".encode(), np.uint8).astype(np.int32) % 64
        masked = np.arange(len(ids)) <= len(prompt)
        documents.append(Document(ids, ~masked))
    rows = pack(documents, 64)
    return Batch(*map(jnp.asarray, rows))


PAIRS = (("France?", "Paris"), ("Italy?", "Rome"), ("Peru?", "Lima"), ("Kenya?", "Nairobi"))


def learn(model: Griffin, batch: Batch, steps: int, rate: float) -> tuple[Sequence[float], Griffin]:
    graphdef, params, frozen = (
        split(model)
        if nnx.to_flat_state(nnx.state(model, nnx.LoRAParam))
        else (*nnx.split(model, nnx.Param), ())
    )
    tx = make_optimizer(OptimConfig(learning_rate=rate, warmup_steps=5), steps=steps)
    state, step = init_train_state(params, tx), make_train_step(graphdef, tx)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch, frozen)
        losses.append(float(metrics["loss"]))
    return losses, nnx.merge(graphdef, state.params, *([frozen] if frozen else []))


def test_a_few_answers_are_learned_by_heart_and_the_base_stays():
    base = untrained(CONFIG)
    before = {name: np.array(value) for name, value in flat_params(base).items()}
    batch = examples(*PAIRS)
    model = adapt(base, LORA, seed=1)
    losses, model = learn(model, batch, 60, 2e-2)
    assert losses[0] > 3
    assert losses[-1] < 0.6  # the frozen embedding and final norm bound how sure it can be
    answers = call(model, batch.tokens_BT, positions=batch.positions_BT)[0].argmax(-1)
    assert bool(((answers == batch.targets_BT) | (batch.weights_BT == 0)).all())
    for name, value in flat_params(base).items():
        np.testing.assert_array_equal(value, before[name])
    plain = from_flat_params(CONFIG, merged(base, model))
    changed = {
        name
        for name, value in flat_params(plain).items()
        if not np.array_equal(value, before[name])
    }
    assert changed == {f"{name}/weight" for name in adapted_layers(CONFIG, LORA)}


def test_a_few_answers_are_learned_by_heart_in_full():
    losses, _ = learn(untrained(CONFIG), examples(*PAIRS), 60, 1e-2)
    assert losses[-1] < 0.05
