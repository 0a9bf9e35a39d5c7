# SPDX-License-Identifier: Apache-2.0
"""Q-learning on a classification MDP, and the probe at its beginning and its end; arms and seeds
run side by side.

The target of an action's value is r + discount max Q'(next), Q' the network as it was when the
target was last renewed. So targets drift, though the data do not. At each renewal the arm does what
it does between tasks (reset of the head, shrink and perturb). Legend: N images, B batch, O actions.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eval.diagnostics.probe import probe
from training.recipes.experiment import Cell, as_json
from training.recipes.plasticity.learner import Choices, Learner, State
from training.recipes.plasticity.mdp import MDP, MDPS, labels, transitions
from training.recipes.plasticity.panel import units
from training.recipes.plasticity.pictures import Pictures, pictures
from training.recipes.plasticity.value_probe import value_task
from training.recipes.rl.heads import decode, value_loss
from training.recipes.side_by_side import batched, join, numbers_of, programs, seeds_of, split
from training.recipes.vision.network import has_convolutions

EASY = MDPS["easy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TDArm:
    """renewals of the target, each after `renew` steps. The probe: `targets` of them, each learned
    for probe_steps steps on the first probe_images images."""

    choices: Choices
    mdp: MDP = EASY
    source: str = "mnist"
    images: int = 5000
    discount: float = 0.95
    renewals: int = 10
    renew: int = 500
    batch_size: int = 64
    targets: int = 3
    probe_steps: int = 300
    probe_images: int = 500


class Run:
    """The pure functions of arms of one structure: of one cell, its numbers traced."""

    def __init__(self, structure: TDArm, data: Pictures):
        self.structure, self.data = structure, data

    def start(self, numbers: Any, seed: jax.Array) -> State:
        """Newly initialised."""
        return self.learner(numbers)[1].start(_key(seed, 0))

    def iteration(
        self, numbers: Any, seed: jax.Array, state: State, number: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Renew the target and learn `renew` steps; their mean loss, and the shares of units."""
        arm, learner = self.learner(numbers)
        target, key = state, jax.random.fold_in(_key(seed, 1), number)
        state = learner.switch(state, jax.random.fold_in(_key(seed, 2), number))
        labels_N = labels(arm.mdp, self.data.labels_N, learner.numbers, _key(seed, 3))

        def step(i: jax.Array, carried: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, losses = carried
            state, loss = self.step(arm, learner, state, target, labels_N, _at(key, i))
            return state, losses + loss

        state, losses = jax.lax.fori_loop(0, arm.renew, step, (state, jnp.zeros(())))
        measured = self.data.x_NHWC[: arm.probe_images]
        return state, {"loss": losses / arm.renew, **units(learner, state, measured)}

    def step(
        self,
        arm: TDArm,
        learner: Learner,
        state: State,
        target: State,
        labels_N: jax.Array,
        key: jax.Array,
    ) -> tuple[State, jax.Array]:
        """One update towards the target network's values."""
        x_NHWC, true_N, of_class_CM = self.data
        batch = transitions(arm.mdp, labels_N, of_class_CM, true_N, key, self.structure.batch_size)
        outputs = learner.outputs(target.params, target.stats, x_NHWC[batch.next_image_B])
        next_BO = decode(arm.choices.head, learner.shaped(outputs.outputs_BO))
        value_B = batch.reward_B + arm.discount * jnp.max(next_BO, -1)

        def loss(outputs_BOK: jax.Array) -> jax.Array:
            taken_BK = jnp.take_along_axis(outputs_BOK, batch.action_B[:, None, None], 1)[:, 0]
            return jnp.mean(value_loss(arm.choices.head, taken_BK, value_B))

        return learner.step(state, loss, x_NHWC[batch.image_B])

    def probed(self, numbers: Any, seed: jax.Array, state: State) -> jax.Array:
        """The squared error after the budget on fresh targets, the mean over them."""
        arm, learner = self.learner(numbers)
        fresh = learner.start(_key(seed, 4)).params

        def one(key: jax.Array) -> jax.Array:
            x_NHWC = self.data.x_NHWC[: arm.probe_images]
            task = value_task(learner, state, x_NHWC, key, batch_size=arm.batch_size)
            return probe(state.params, fresh, task, learner.tx, steps=arm.probe_steps, key=key).loss

        return jnp.mean(jax.lax.map(one, jax.random.split(_key(seed, 5), arm.targets)))

    def learner(self, numbers: Any) -> tuple[TDArm, Learner]:
        """Of a cell's numbers."""
        arm = join(self.structure, numbers)
        shape, actions = self.data.x_NHWC.shape[1:], self.data.of_class_CM.shape[0]
        return arm, Learner(arm.choices, image_shape=shape, numbers=actions)


def train_td(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The numbers of each cell of TDArm, those of one structure as one program: probe_before and
    probe_after; loss and units by renewal."""
    for group in programs(cells):
        arm: TDArm = group[0].choices
        run = Run(split(arm)[0], pictures(arm.source, arm.images))
        numbers, seeds = numbers_of(group), seeds_of(group)
        state = jax.jit(jax.vmap(run.start))(numbers, seeds)
        large = has_convolutions(arm.choices.network)
        probed = jax.jit(batched(run.probed, (0, 0, 0), large=large))
        iteration = jax.jit(batched(run.iteration, (0, 0, 0, None), large=large), donate_argnums=2)
        before, records = probed(numbers, seeds, state), []
        for number in range(arm.renewals):
            state, record = iteration(numbers, seeds, state, jnp.asarray(number, jnp.int32))
            records.append(record)
        after = probed(numbers, seeds, state)
        before, after, records = jax.device_get((before, after, records))
        for number, cell in enumerate(group):
            curves = {name: [record[name][number] for record in records] for name in records[0]}
            yield (
                cell,
                as_json({"probe_before": before[number], "probe_after": after[number], **curves}),
            )


def _at(key: jax.Array, i: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, i)


def _key(seed: jax.Array, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 100 + purpose)
