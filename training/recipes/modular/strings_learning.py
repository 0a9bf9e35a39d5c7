# SPDX-License-Identifier: Apache-2.0
"""One seed of the string tasks: a byte-level Griffin, its templates, and what each method makes of
a combination that nothing was trained on.

    base        a Griffin learns all training combinations, without a word on which is which
    templates   the base is frozen; templates and a code for each training combination are learned
    held out    of some examples of a new combination each method learns:
      none           nothing: the base
      code           a code, of templates that are frozen
      code online    the same, reading the examples once, one after the other
      LoRA           an adapter of the base for this combination alone
      all online     every weight of the base, reading the examples once (dynamic evaluation)

Codes are persistent in training, one for a combination, as in theory.py, and begin at the same
place but for a little noise. Legend: K combinations side by side, B examples of one, F factors,
G groups of layers, M templates.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from recurrentgemma.adapters import attach, fresh_adapters
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.hyper_adapters import coded, fresh_templates, normed, plain_code
from recurrentgemma.hyper_config import HyperConfig
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.losses import Batch, hidden_loss, next_token_loss
from recurrentgemma.params import Flat, flat_params, from_flat_params
from recurrentgemma.presets import tiny
from training.optim import promoting
from training.recipes.modular.strings import Kind, examples, support
from training.step import TrainStep, init_train_state, make_train_step

TEMPLATES = HyperConfig(templates=8, rank=4, alpha=8.0)
OWN = LoraConfig(rank=4, alpha=8.0)
METHODS = ("none", "code", "code online", "LoRA", "all online")
NOISE = 0.01  # of the codes' first values


def strings_griffin() -> GriffinConfig:
    """Two recurrent layers and one of local attention, 167,104 parameters."""
    return dataclasses.replace(
        tiny(),
        vocab_size=128,
        width=64,
        mlp_width=192,
        lru_width=64,
        num_layers=3,
        num_heads=2,
        num_gate_blocks=2,
        head_dim=32,
        attention_window=32,
        remat="none",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StringsArm:
    """Rates are of Adam; those of held-out combinations were chosen on another seed than the
    study's.
    shots: examples that a method learns from; queries: those that it is then tested on."""

    kind: Kind
    model: GriffinConfig = dataclasses.field(default_factory=strings_griffin)
    hyper: HyperConfig = TEMPLATES
    lora: LoraConfig = OWN
    base_steps: int = 400
    template_steps: int = 400
    rows: int = 4
    base_rate: float = 3e-3
    template_rate: float = 3e-3
    training_code_rate: float = 0.03
    code_rate: float = 0.1
    lora_rate: float = 3e-3
    online_code_rate: float = 0.1
    online_rate: float = 1e-3
    fit_steps: int = 60
    tested: int = 8
    shots: int = 32
    queries: int = 64


class Adapted(NamedTuple):
    """templates, by the names of LoRA; codes_KGM of the training combinations."""

    templates: Flat
    codes_KGM: jax.Array


class Programs(NamedTuple):
    """What is compiled once for all supports and seeds."""

    learn_templates: Callable[..., tuple[Adapted, Any, jax.Array]]
    first_opt_state: Callable[[Adapted], Any]
    methods: dict[str, Callable[..., tuple[jax.Array, jax.Array]]]
    test_codes: Callable[..., tuple[jax.Array, jax.Array]]


def measured(choices: StringsArm, seed: int, methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Exact matches (a share) and bits a byte of the answers, on held-out combinations by method
    and on training ones; means over combinations."""
    random = np.random.default_rng(seed)
    train_KF, out_CF = support(choices.kind)
    base, base_loss = learned_base(choices, train_KF, random, seed)
    run = programs(dataclasses.replace(choices, kind="spread"))
    adapted, template_loss = learned_templates(choices, run, base, train_KF, random, seed)
    # The same held-out combinations, shots and queries for all supports.
    random = np.random.default_rng((seed, 1))
    out_KF = out_CF[random.permutation(len(out_CF))[: choices.tested]]
    shots = side_by_side(out_KF, choices.shots, random)
    queries = side_by_side(out_KF, choices.queries, random)
    held_out = {
        name: _numbers(run.methods[name](base, adapted, shots, queries)) for name in methods
    }
    some_K = random.permutation(len(train_KF))[: choices.tested]
    shots = side_by_side(train_KF[some_K], choices.shots, random)
    queries = side_by_side(train_KF[some_K], choices.queries, random)
    codes_KGM = adapted.codes_KGM[some_K]
    return {
        "held_out": held_out,
        "training": {
            "own code": _numbers(run.test_codes(base, adapted.templates, codes_KGM, queries)),
            "code": _numbers(run.methods["code"](base, adapted, shots, queries)),
        },
        "losses": {"base": base_loss, "templates": template_loss},
    }


def side_by_side(combinations_KF: np.ndarray, rows: int, random: np.random.Generator) -> Batch:
    """So many examples of each combination, [K, B, T]."""
    batch = examples(np.repeat(combinations_KF, rows, 0), random)
    return Batch(*(jnp.asarray(x.reshape(len(combinations_KF), rows, -1)) for x in batch))


def learned_base(
    choices: StringsArm, train_KF: np.ndarray, random: np.random.Generator, seed: int
) -> tuple[Flat, float]:
    """The parameters of a Griffin that has learned the mixture of them all, and its last loss."""
    graphdef, params = nnx.split(Griffin(choices.model, rngs=nnx.Rngs(seed)), nnx.Param)
    tx, step = base_step(choices.model, choices.base_rate, choices.base_steps)
    train_state, metrics = init_train_state(params, tx), {}
    for _ in range(choices.base_steps):
        batch = examples(np.repeat(train_KF, choices.rows, 0), random)
        train_state, metrics = step(train_state, batch)
    return flat_params(nnx.merge(graphdef, train_state.params)), float(metrics["loss"])


@functools.cache
def base_step(
    config: GriffinConfig, rate: float, steps: int
) -> tuple[optax.GradientTransformation, TrainStep]:
    """Compiled once for all supports and seeds."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))), nnx.Param)
    tx = _clipped(_falling(rate, steps))
    return tx, make_train_step(graphdef, tx)


def learned_templates(
    choices: StringsArm,
    run: Programs,
    base: Flat,
    train_KF: np.ndarray,
    random: np.random.Generator,
    seed: int,
) -> tuple[Adapted, float]:
    """Templates and codes of the training combinations, every step on `rows` examples of each
    combination, and the last loss."""
    hyper = choices.hyper
    templates = fresh_templates(choices.model, hyper, seed=seed)
    shape = (len(train_KF), *plain_code(hyper).shape)
    codes_KGM = plain_code(hyper)[None] + NOISE * jax.random.normal(jax.random.key(seed), shape)
    adapted, loss = Adapted(templates, codes_KGM), jnp.zeros(())
    opt_state = run.first_opt_state(adapted)
    for _ in range(choices.template_steps):
        batch = side_by_side(train_KF, choices.rows, random)
        adapted, opt_state, loss = run.learn_templates(base, adapted, opt_state, batch)
    return adapted, float(loss)


@functools.cache
def programs(choices: StringsArm) -> Programs:
    """Of the choices, whichever support they have."""
    config, hyper, lora = choices.model, choices.hyper, choices.lora
    fresh = fresh_adapters(config, lora, seed=0)

    def with_code(base: Flat, templates: Flat, code_GM: jax.Array) -> Griffin:
        flat = coded(config, hyper, templates, code_GM)
        return attach(from_flat_params(config, base), flat, scale=hyper.scale)

    def code_loss(code_GM: jax.Array, batch: Batch, base: Flat, templates: Flat) -> jax.Array:
        return next_token_loss(with_code(base, templates, code_GM), batch)[0]

    def with_lora(base: Flat, flat: Flat) -> Griffin:
        return attach(from_flat_params(config, base), flat, scale=lora.scale)

    def start(adapted: Adapted) -> jax.Array:
        return jnp.mean(normed(adapted.codes_KGM), 0)

    tx = _clipped(
        optax.multi_transform(
            {
                "templates": _falling(choices.template_rate, choices.template_steps),
                "codes": _falling(choices.training_code_rate, choices.template_steps),
            },
            Adapted("templates", "codes"),  # type: ignore[arg-type]
        )
    )

    def template_loss(adapted: Adapted, base: Flat, batch: Batch) -> jax.Array:
        loss_K = jax.vmap(code_loss, (0, 0, None, None))(
            adapted.codes_KGM, batch, base, adapted.templates
        )
        return jnp.mean(loss_K)

    @jax.jit
    def learn_templates(base: Flat, adapted: Adapted, opt_state: Any, batch: Batch) -> Any:
        loss, grads = jax.value_and_grad(template_loss)(adapted, base, batch)
        updates, opt_state = tx.update(grads, opt_state, adapted)
        return optax.apply_updates(adapted, updates), opt_state, loss

    def code(base: Flat, adapted: Adapted, shots: Batch) -> Griffin:
        loss = functools.partial(code_loss, base=base, templates=adapted.templates)
        code_GM = fitted(loss, start(adapted), shots, choices.code_rate, choices.fit_steps)
        return with_code(base, adapted.templates, code_GM)

    def code_online(base: Flat, adapted: Adapted, shots: Batch) -> Griffin:
        loss = functools.partial(code_loss, base=base, templates=adapted.templates)
        code_GM = read_once(loss, start(adapted), shots, optax.adam(choices.online_code_rate))
        return with_code(base, adapted.templates, code_GM)

    def own_lora(base: Flat, _: Adapted, shots: Batch) -> Griffin:
        def loss(flat: Flat, batch: Batch) -> jax.Array:
            return next_token_loss(with_lora(base, flat), batch)[0]

        flat = fitted(loss, fresh, shots, choices.lora_rate, choices.fit_steps)
        return with_lora(base, flat)

    def all_online(base: Flat, _: Adapted, shots: Batch) -> Griffin:
        def loss(flat: Flat, batch: Batch) -> jax.Array:
            return next_token_loss(from_flat_params(config, flat), batch)[0]

        return from_flat_params(
            config, read_once(loss, base, shots, optax.adam(choices.online_rate))
        )

    def none(base: Flat, _: Adapted, shots: Batch) -> Griffin:
        del shots
        return from_flat_params(config, base)

    def tested(adapt: Callable[[Flat, Adapted, Batch], Griffin]) -> Callable:
        """Of every combination by itself, [K]."""

        def one(base: Flat, adapted: Adapted, shots: Batch, queries: Batch) -> Any:
            return scores(adapt(base, adapted, shots), queries)

        return jax.jit(jax.vmap(one, (None, None, 0, 0)))

    def test_code(base: Flat, templates: Flat, code_GM: jax.Array, queries: Batch) -> Any:
        return scores(with_code(base, templates, code_GM), queries)

    adapt = dict(zip(METHODS, (none, code, code_online, own_lora, all_online), strict=True))
    return Programs(
        learn_templates,
        tx.init,
        {name: tested(one) for name, one in adapt.items()},
        jax.jit(jax.vmap(test_code, (None, None, 0, 0))),
    )


def fitted(loss: Callable, first: Any, shots: Batch, rate: float, steps: int) -> Any:
    """After so many steps of Adam on all shots."""
    tx = promoting(optax.adam(rate))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        value, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss)(value, shots), opt_state, value)
        return (optax.apply_updates(value, updates), opt_state), None

    return jax.lax.scan(step, (first, tx.init(first)), length=steps)[0][0]


def read_once(loss: Callable, first: Any, shots: Batch, tx: optax.GradientTransformation) -> Any:
    """After a step on each shot, one after the other."""
    tx = promoting(tx)

    def step(carry: Any, shot: Batch) -> tuple[Any, None]:
        value, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss)(value, shot), opt_state, value)
        return (optax.apply_updates(value, updates), opt_state), None

    one_by_one = jax.tree.map(lambda x: x[:, None], shots)
    return jax.lax.scan(step, (first, tx.init(first)), one_by_one)[0][0]


def scores(model: Griffin, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(the share of answers that greedy decoding gets right to the last byte, bits a byte of the
    answers). The likeliest bytes after the true ones are those of greedy decoding up to its first
    mistake."""
    x_BTD, _ = model.hidden(batch.tokens_BT, None, positions=batch.positions_BT)
    _, nll_BT, _ = hidden_loss(model, x_BTD, batch.targets_BT, batch.weights_BT)
    logits_BTV, _ = model(batch.tokens_BT, positions=batch.positions_BT)
    right_BT = jnp.argmax(logits_BTV, -1) == batch.targets_BT
    exact = jnp.mean(jnp.all(right_BT | (batch.weights_BT == 0), 1), dtype=jnp.float32)
    bits = jnp.sum(nll_BT * batch.weights_BT) / jnp.sum(batch.weights_BT) / np.log(2)
    return exact, bits.astype(jnp.float32)


def _numbers(scores_K: tuple[jax.Array, jax.Array]) -> dict[str, Any]:
    exact_K, bits_K = (np.asarray(x, np.float64) for x in scores_K)
    return {"exact": float(exact_K.mean()), "bits": float(bits_K.mean())}


def _falling(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam that is warmed up, and whose rate falls to a tenth by a cosine."""
    warmup = max(1, steps // 10)
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps, rate / 10))


def _clipped(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return promoting(optax.chain(optax.clip_by_global_norm(1.0), tx))
