# SPDX-License-Identifier: Apache-2.0
"""Training of a small model for a synthetic task: many steps in one call of the device.

    training = SyntheticTraining(config, task, choices)
    state = training.start(seed)
    while int(state.step) < choices.steps:
        state, point = training.advance(state, int(state.step))

Every step sees new sequences, drawn on the device. The loss is at the answers alone (Griffin paper,
appendix H). AdamW; the paper gives neither its learning rate, nor schedule, nor batch size.

Sequences grow, which the paper's do not: they begin at choices.shortest tokens and double, in equal
parts of the first steps (choices.growing), up to the task's length, which the others have. A step
has about tokens_per_step tokens whatever their length. What a task asks is the same at every
length, and a short sequence says it for a fraction of the work. The window of Griffin's attention
grows with them, always the same share of a sequence. With its whole window Griffin solves the short
ones by attention alone, and knows nothing when they have outgrown it.

B batch, T time, A answers, V vocabulary.
"""

import dataclasses
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from eval.tasks.synthetic_task import SyntheticTask
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharding import parameter_name

POINT_SEQUENCES = (
    64  # whole ones, new each time, by which a point of the learning curve is measured
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingChoices:
    """How a model is trained. The learning rate: linear warm-up, then a cosine to a tenth."""

    steps: int
    tokens_per_step: int
    shortest: int
    """Tokens of the first sequences; the task's length: they do not grow."""
    growing: float
    """The share of all steps, from the first on, in which sequences grow."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    """Times the learning rate, on the embedding and the weights of linear layers."""
    warmup_steps: int = 100
    block: int = 100
    """Steps of one call, and of one point of the learning curve."""

    def __post_init__(self) -> None:
        for name in ("steps", "tokens_per_step", "block"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.steps % self.block:
            raise UserError(f"steps={self.steps}: expected a multiple of {self.block}")
        if not 0 < self.learning_rate < 10:
            raise UserError(f"learning_rate={self.learning_rate}: expected above 0, and below 10")

    def length_at(self, step: int, length: int) -> int:
        """Of the sequences of a step, in training for a task of this length."""
        lengths = [min(self.shortest, length)]
        while lengths[-1] < length:
            lengths.append(min(2 * lengths[-1], length))
        grown = max(self.growing * self.steps, 1)  # steps from which on they have their full length
        return lengths[min(int(step * (len(lengths) - 1) / grown), len(lengths) - 1)]


STUDY = {
    "selective_copying": TrainingChoices(
        steps=8000, tokens_per_step=2048, shortest=64, growing=0.5, learning_rate=4e-3
    ),
    "induction_heads": TrainingChoices(steps=4000, tokens_per_step=2048, shortest=16, growing=0.1),
}
"""What two cores can afford (synthetic_cli.py tells the times): found on one seed of Hawk for
induction heads, and by the first thousand steps for selective copying."""


class SyntheticState(NamedTuple):
    """All that training goes on with. Step i of a seed draws the same sequences in any run."""

    step: jax.Array  # int32
    params: Any
    opt_state: optax.OptState
    seed: jax.Array  # uint32


class CurvePoint(NamedTuple):
    """Of one call."""

    loss: jax.Array  # nats an answer, a mean over its steps
    accuracy: jax.Array  # of answers in new sequences of the task's length, after its last step


class SyntheticTraining:
    """Training of one model for one task."""

    def __init__(self, config: GriffinConfig, task: SyntheticTask, choices: TrainingChoices):
        self._length, self._choices = task.length, choices
        schedule = optax.warmup_cosine_decay_schedule(
            0.0,
            choices.learning_rate,
            max(1, min(choices.warmup_steps, choices.steps - 1)),
            choices.steps,
            choices.learning_rate / 10,
        )
        tx = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(
                schedule, b2=0.98, weight_decay=choices.weight_decay, mask=decayed_parameters
            ),
        )
        self._start = jax.jit(partial(_start, config, tx))
        self._advance = jax.jit(
            partial(_advance, config, tx, task, choices),
            static_argnames="length",
            donate_argnums=0,
        )

    def start(self, seed: int) -> SyntheticState:
        """Before the first step."""
        return self._start(jnp.uint32(seed))

    def advance(self, state: SyntheticState, step: int) -> tuple[SyntheticState, CurvePoint]:
        """`block` steps from `step` on, which is state.step, without waiting for them. `state` is
        donated."""
        return self._advance(state, length=self._choices.length_at(step, self._length))


def decayed_parameters(params: Any) -> Any:
    """Which parameters decay: what multiplies logits and activations, so that a task cannot be
    solved by making these larger, but nothing of the recurrence and its convolution."""

    def decays(path: tuple[Any, ...], param: jax.Array) -> bool:
        name = parameter_name(path)
        return param.ndim > 1 and "rg_lru" not in name and "conv_1d" not in name

    return jax.tree_util.tree_map_with_path(decays, params)


@lru_cache(maxsize=1)  # the seeds of a model share its programs
def compiled_training(
    config: GriffinConfig, task: SyntheticTask, choices: TrainingChoices
) -> SyntheticTraining:
    return SyntheticTraining(config, task, choices)


def _start(config: GriffinConfig, tx: optax.GradientTransformation, seed) -> SyntheticState:
    init_key, _ = jax.random.split(jax.random.key(seed))
    params = nnx.split(Griffin(config, rngs=nnx.Rngs(init_key)))[1]
    return SyntheticState(jnp.int32(0), params, tx.init(params), seed)


def _advance(
    config: GriffinConfig,
    tx,
    task: SyntheticTask,
    choices: TrainingChoices,
    state: SyntheticState,
    *,
    length: int,
):
    batch_size = max(1, choices.tokens_per_step // length)
    window = max(1, config.attention_window * length // task.length)

    def loss_fn(params, tokens_BT, answers_BA, *, window=window):
        model = nnx.merge(_graphdef(config, window), params)
        x_BTD, _ = model.hidden(tokens_BT)
        logits_BAV = model.unembed(x_BTD[:, -task.answers :])
        losses_BA = optax.softmax_cross_entropy_with_integer_labels(logits_BAV, answers_BA)
        right_BA = jnp.argmax(logits_BAV, -1) == answers_BA
        return jnp.mean(losses_BA), jnp.mean(right_BA, dtype=jnp.float32)

    def one(state: SyntheticState, _) -> tuple[SyntheticState, jax.Array]:
        step, params, opt_state, seed = state
        batch = task.draw(_key(seed, step), batch_size, length)
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, *batch)
        with jax.numpy_dtype_promotion("standard"):  # optax: a Python float to an int32 power
            updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return SyntheticState(step + 1, params, opt_state, seed), loss

    state, losses = jax.lax.scan(one, state, length=choices.block)
    whole = task.draw(_key(state.seed, -state.step), POINT_SEQUENCES, task.length)
    _, accuracy = loss_fn(state.params, *whole, window=config.attention_window)
    return state, CurvePoint(jnp.mean(losses), accuracy)


def _graphdef(config: GriffinConfig, window: int):
    config = dataclasses.replace(config, attention_window=window)
    return nnx.split(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))))[0]


def _key(seed: jax.Array, step: jax.Array) -> jax.Array:
    """Of a step's sequences, or with its negative of those that measure it."""
    _, data_key = jax.random.split(jax.random.key(seed))
    return jax.random.fold_in(data_key, step)
