# SPDX-License-Identifier: Apache-2.0
"""LoRA: it starts as the base, leaves the base alone, learns, merges, and is the same on a mesh."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from recurrentgemma import parallel, sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import param_shapes
from recurrentgemma.griffin import Griffin, flat_params, from_flat_params
from recurrentgemma.losses import Batch
from recurrentgemma.sharded import place
from recurrentgemma.sharding import MeshConfig, make_mesh
from training.data import pack
from training.lora import (
    LoraConfig,
    adapt,
    adapted_layers,
    flat_adapters,
    merge_into,
    split,
    with_adapters,
)
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step

CONFIG = GriffinConfig(
    vocab_size=64,
    width=32,
    mlp_width=96,
    num_layers=2,
    pattern=("recurrent", "local_attention"),
    lru_width=32,
    num_gate_blocks=4,
    num_heads=4,
    head_dim=8,
    attention_window=9,
    scale_embeddings=True,
    logits_soft_cap=30.0,
)
LORA = LoraConfig(rank=4, alpha=8.0)
FORMS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16 parameters": {"dtype": "bfloat16", "param_dtype": "bfloat16"},
    "scanned": {"scan_layers": True},
    "recomputed": {"remat": "block"},
    "all": {"scan_layers": True, "remat": "dots", "dtype": "bfloat16"},
}
TOKENS = np.arange(40).reshape(2, 20) * 7 % 64
LINEAR = (3 + 3) + (4 + 3)  # layers of a recurrent and an attention block, with their MLPs


def form(name: str) -> GriffinConfig:
    return dataclasses.replace(CONFIG, **FORMS[name])


def moved(model: Griffin) -> Griffin:
    """With adapters as training leaves them: B is not zero any more."""
    flat = flat_adapters(model)
    wave = {
        n: jnp.sin(jnp.arange(v.size, dtype=jnp.float32)).reshape(v.shape) for n, v in flat.items()
    }
    return with_adapters(model, {n: v + 0.02 * wave[n] for n, v in flat.items()})


@pytest.mark.parametrize("name", FORMS)
def test_it_starts_as_the_base_and_merges_into_what_it_became(name):
    config = form(name)
    base = Griffin(config, rngs=nnx.Rngs(0))
    model = adapt(base, LORA, seed=1)
    assert len(flat_adapters(model)) == 2 * LINEAR
    start, _ = base(TOKENS)
    np.testing.assert_allclose(model(TOKENS)[0], start, atol=2e-5)
    model = moved(model)
    logits, state = model(TOKENS)
    assert float(jnp.abs(logits - start).max()) > 0.1
    plain = from_flat_params(config, merge_into(model, LORA))
    tolerance = 2e-5 if config.dtype == "float32" else 0.1
    got, got_state = plain(TOKENS)
    np.testing.assert_allclose(got, logits, atol=tolerance)
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.shape, y.shape), got_state, state)
    assert {str(leaf.dtype) for leaf in flat_params(plain).values()} == {config.param_dtype}
    assert {str(leaf.dtype) for leaf in flat_adapters(model).values()} == {"float32"}


@pytest.mark.filterwarnings("ignore:The 'm.iter_modules:DeprecationWarning")  # of Qwix 0.1.8
def test_qwix_by_itself_does_not_see_our_products():
    """Why GriffinLora intercepts layers: no adapter is made at all, or an error is raised."""
    for name in ("float32", "recomputed"):
        base = Griffin(form(name), rngs=nnx.Rngs(0))
        provider = qwix.LoraProvider(module_path=".*", rank=4, alpha=8.0)
        made = qwix.apply_lora_to_model(base, provider, TOKENS, rngs=nnx.Rngs(0))
        assert not nnx.to_flat_state(nnx.state(made, nnx.LoRAParam))
    base = Griffin(form("bfloat16"), rngs=nnx.Rngs(0))
    provider = qwix.LoraProvider(module_path=".*", rank=4, alpha=8.0)
    with pytest.raises(Exception, match="trace"):
        qwix.apply_lora_to_model(base, provider, TOKENS, rngs=nnx.Rngs(0))


def test_decoding_goes_on_from_a_state():
    """The state contract holds for an adapted model: in chunks as in one call."""
    model = moved(adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), LORA, seed=1))
    whole, _ = model(TOKENS)
    first, state = model(TOKENS[:, :7])
    second, _ = model(TOKENS[:, 7:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=2e-5)


def test_the_first_values_do_not_depend_on_how_layers_are_held():
    values = [
        flat_adapters(adapt(Griffin(form(name), rngs=nnx.Rngs(0)), LORA, seed=1))
        for name in ("float32", "scanned")
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
    model = adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), only, seed=0)
    assert len(flat_adapters(model)) == 6
    every = adapted_layers(CONFIG, LORA)
    assert len(every) == LINEAR
    assert not any(word in name for name in every for word in ("embed", "norm", "rg_lru", "conv"))
    model(TOKENS)


@pytest.mark.parametrize(
    ("fields", "config", "message"),
    [
        ({"rank": 0}, CONFIG, "lora.rank=0: expected at least 1"),
        ({"alpha": -1.0}, CONFIG, "lora.alpha=-1.0: expected a number above 0"),
        ({"layers": "("}, CONFIG, r"lora.layers='\('"),
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


def test_other_adapters_are_refused():
    model = adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), LORA, seed=0)
    flat = flat_adapters(model)
    name = "blocks.0/mlp_block/ffw_up/weight_lora_a"
    with pytest.raises(ValueError, match=f"'{name}' is missing"):
        with_adapters(model, {n: v for n, v in flat.items() if n != name})
    with pytest.raises(ValueError, match="'x' is none of this model's"):
        with_adapters(model, {**flat, "x": flat[name]})
    with pytest.raises(ValueError, match=r"has shape \(32, 3\); expected \(32, 4\)"):
        with_adapters(model, {**flat, name: flat[name][:, :3]})


def test_the_plain_parameters_of_an_adapted_model_are_not_taken_for_all_of_it():
    model = adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), LORA, seed=0)
    with pytest.raises(ValueError, match="merge its adapters first"):
        flat_params(model)


BATCH, TIME = 8, 48


def batches(steps: int) -> list[Batch]:
    """Rows of documents that begin on, before and after the cuts of a sequence; of some targets the
    weight is 0."""
    rng = np.random.default_rng(0)
    starts = {0, 5, 11, 12, 13, 23, 24, 25, 30}
    found = []
    for step in range(steps):
        positions = np.zeros((BATCH, TIME), np.int32)
        for row in range(BATCH):
            count = 0
            for t in range(TIME):
                count = 0 if t in starts and (row + step) % 3 != t % 3 else count
                positions[row, t] = count
                count += 1
        tokens, targets = rng.integers(0, CONFIG.vocab_size, (2, BATCH, TIME), np.int32)
        weights = (positions % 5 > 1).astype(np.float32)
        found.append(Batch(*map(jnp.asarray, (tokens, targets, weights, positions))))
    return found


def losses(config: GriffinConfig, sizes: MeshConfig | None, steps: int, accumulate: int = 1):
    """Loss and gradient norm of each step of training adapters that have left their beginning."""
    mesh = make_mesh(sizes) if sizes else None
    model = moved(adapt(Griffin(config, rngs=nnx.Rngs(0)), LORA, seed=1))
    graphdef, params, frozen = split(model)
    if mesh:
        params, frozen = jax.device_put(
            (params, frozen), sharding.shardings(mesh, (params, frozen))
        )
    tx = make_optimizer(OptimConfig(learning_rate=1e-2, warmup_steps=2), steps=20)
    state = init_train_state(params, tx, mesh)
    step = make_train_step(graphdef, tx, mesh=mesh, accumulate=accumulate)
    found = []
    for batch in batches(steps):
        batch = Batch(*place(mesh, sharding.BATCH, *batch)) if mesh else batch
        state, metrics = step(state, batch, frozen)
        found.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.asarray(found)


MESHES = {
    "data-fsdp": MeshConfig(data=2, fsdp=4),
    "tensor": MeshConfig(data=2, tensor=4),
    "sequence": MeshConfig(data=2, sequence=4),
    "all": MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}


@pytest.fixture(scope="module")
def one_device() -> np.ndarray:
    return losses(CONFIG, None, 6)


@pytest.mark.parametrize("name", MESHES)
def test_the_losses_of_one_device(one_device: np.ndarray, name: str):
    got = losses(CONFIG, MESHES[name], 6)
    np.testing.assert_allclose(got[:, 0], one_device[:, 0], rtol=1e-5)
    np.testing.assert_allclose(got[:, 1], one_device[:, 1], rtol=1e-4)


def test_it_goes_red_without_the_sum_over_tensor(one_device, monkeypatch):
    monkeypatch.setattr("training.lora._over_tensor", lambda path: False)
    got = losses(CONFIG, MESHES["tensor"], 2)
    assert np.abs(got[:, 1] / one_device[:2, 1] - 1).max() > 1e-3


def test_scanned_and_recomputed_on_a_mesh(one_device):
    config = dataclasses.replace(CONFIG, num_layers=5, scan_layers=True, remat="block")
    got = losses(config, MESHES["all"], 2, accumulate=2)
    np.testing.assert_allclose(got, losses(config, None, 2), rtol=1e-4)


def test_adapters_are_born_where_they_lie():
    mesh = make_mesh(MESHES["all"])
    model = adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), LORA, seed=1, mesh=mesh)
    want = flat_adapters(adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), LORA, seed=1))
    for name, value in flat_adapters(model).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-6)
    a = model.blocks[0].mlp_block.ffw_up.weight_lora_a[...]
    assert a.addressable_shards[0].data.shape == (CONFIG.width // 4, LORA.rank)
    b = model.blocks[0].mlp_block.ffw_up.weight_lora_b[...]
    assert b.addressable_shards[0].data.shape == (LORA.rank, CONFIG.mlp_width // 2)


def test_without_the_gradient_of_the_frozen():
    """The head makes its embedding's gradient with its loss; unused, it is not in the program."""
    graphdef, params, frozen = split(adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), LORA, seed=1))
    tx = make_optimizer(OptimConfig(warmup_steps=2), steps=20)

    def products(graphdef, params, frozen) -> int:
        batch = batches(1)[0]
        step = make_train_step(graphdef, tx)
        text = step.lower(init_train_state(params, tx), batch, frozen).compile().as_text()
        assert text is not None
        return text.count(f" = f32[{CONFIG.vocab_size},{CONFIG.width}]")

    whole = nnx.split(Griffin(CONFIG, rngs=nnx.Rngs(0)), nnx.Param)
    assert products(graphdef, params, frozen) < products(*whole, ()) / 2


def examples(*pairs: tuple[str, str]) -> Batch:
    """Prompts and responses of characters; only the responses are learned from."""
    documents = []
    for prompt, response in pairs:
        ids = np.frombuffer(f"\1{prompt}{response}\2".encode(), np.uint8).astype(np.int32) % 64
        masked = np.arange(len(ids)) <= len(prompt)
        documents.append(np.where(masked, ~ids, ids))
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
    found = []
    for _ in range(steps):
        state, metrics = step(state, batch, frozen)
        found.append(float(metrics["loss"]))
    merged = nnx.merge(graphdef, state.params, *([frozen] if frozen else []))
    return found, merged


def test_a_few_answers_are_learned_by_heart_and_the_base_stays():
    base = Griffin(CONFIG, rngs=nnx.Rngs(0))
    before = {name: np.array(value) for name, value in flat_params(base).items()}
    batch = examples(*PAIRS)
    model = adapt(base, LORA, seed=1)
    found, model = learn(model, batch, 80, 2e-2)
    assert found[0] > 3
    assert found[-1] < 0.1
    for name, value in flat_params(base).items():
        np.testing.assert_array_equal(value, before[name])
    merged = from_flat_params(CONFIG, merge_into(model, LORA))
    changed = {
        name
        for name, value in flat_params(merged).items()
        if not np.array_equal(value, before[name])
    }
    assert changed == {f"{name}/weight" for name in adapted_layers(CONFIG, LORA)}


def test_a_few_answers_are_learned_by_heart_in_full():
    found, _ = learn(Griffin(CONFIG, rngs=nnx.Rngs(0)), examples(*PAIRS), 60, 1e-2)
    assert found[-1] < 0.05


def test_every_parameter_shape_is_still_a_griffins():
    model = moved(adapt(Griffin(CONFIG, rngs=nnx.Rngs(0)), LORA, seed=1))
    merged = merge_into(model, LORA)
    assert {name: value.shape for name, value in merged.items()} == param_shapes(CONFIG)


def test_no_adapter_is_gathered_by_another_name():
    """Where an adapter is divided over fsdp is where its weight is."""
    assert sharding.gathered_dimension("blocks.0/mlp_block/ffw_up/weight_lora_a") == 0
    assert sharding.gathered_dimension("blocks.0/mlp_block/ffw_up/weight_lora_b") is None
    assert sharding.gathered_dimension("blocks.0/mlp_block/ffw_down/weight_lora_b") == 1
    assert parallel.size("tensor") == 1
