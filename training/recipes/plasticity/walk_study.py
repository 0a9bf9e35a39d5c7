# SPDX-License-Identifier: Apache-2.0
"""Figure 2 of 2303.01486: gradient descent on moving targets, and a random walk of equal steps.

After five renewals of the target, what is the landscape of an arbitrary new target, and do the
gradients of examples work against each other? The walk takes a random direction at each step and
gradient descent's own length. Two layers of 256 on the easy MDP (the paper: 512-wide batches, which
are kept, on CIFAR-10). Legend: N images, B batch, G points of the density.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eval.diagnostics.curvature import (
    Spectrum,
    arbitrary_target_loss,
    cosines,
    density,
    gradient_products,
    hessian_product,
    hessian_spectrum,
    negative_share,
)
from eval.intervals import method, t_interval
from eval.plots import lines
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings, as_json
from training.recipes.findings import Arms, as_numbers, curve, values
from training.recipes.plasticity.learner import Choices, Learner, State
from training.recipes.plasticity.mdp import transitions
from training.recipes.plasticity.pictures import Pictures, pictures
from training.recipes.plasticity.td import Run, TDArm
from training.recipes.rl.heads import decode
from training.recipes.side_by_side import numbers_of, seeds_of, split
from training.recipes.vision.mlp import MLPConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class WalkArm:
    """examples: of the spectrum. pairs: examples whose gradients are compared."""

    td: TDArm
    way: Literal["gradient descent", "random walk"]
    examples: int = 256
    pairs: int = 128
    iterations: int = 60
    vectors: int = 2


class Pair(NamedTuple):
    """Both of one seed, from the same parameters; what gradient descent's target was last."""

    descent: State
    walk: Any  # parameters
    target: State


class Walk:
    """The pure functions of a seed."""

    def __init__(self, arm: WalkArm, data: Pictures):
        self.arm, self.data, self.run = arm, data, Run(split(arm.td)[0], data)

    def start(self, numbers: Any, seed: jax.Array) -> Pair:
        """Before the first step."""
        state = self.run.start(numbers, seed)
        return Pair(state, state.params, state)

    def renewal(self, numbers: Any, seed: jax.Array, pair: Pair, number: jax.Array) -> Pair:
        """Renew the target and take the steps of both."""
        arm, learner = self.run.learner(numbers)
        key = jax.random.fold_in(jax.random.key(seed), 1000 + number)

        def step(i: jax.Array, carried: tuple[State, Any]) -> tuple[State, Any]:
            state, walk = carried
            step_key, walk_key = jax.random.split(jax.random.fold_in(key, i))
            after, _ = self.run.step(
                arm, learner, state, pair.descent, self.data.labels_N, step_key
            )
            moved = jax.tree.map(jnp.subtract, after.params, state.params)
            return after, walked(walk, optax.tree.norm(moved), walk_key)

        carried = jax.lax.fori_loop(0, arm.renew, step, (pair.descent, pair.walk))
        return Pair(*carried, target=pair.descent)

    def measured(self, numbers: Any, seed: jax.Array, pair: Pair) -> dict[str, dict[str, Any]]:
        """By way: the spectrum of an arbitrary target, and the share of gradients that oppose."""
        _, learner = self.run.learner(numbers)
        key = jax.random.fold_in(jax.random.key(seed), 2000)
        params = {"gradient descent": pair.descent.params, "random walk": pair.walk}
        return {
            way: {
                "spectrum": self.spectrum(learner, one, key)._asdict(),
                "negative": self.negative(numbers, one, pair.target, key),
            }
            for way, one in params.items()
        }

    def spectrum(self, learner: Learner, params: Any, key: jax.Array) -> Spectrum:
        """Of the Hessian on the first `examples` images."""
        noise_key, start_key = jax.random.split(key)
        loss = arbitrary_target_loss(
            lambda params, x: learner.outputs(params, {}, x).outputs_BO,
            self.data.x_NHWC[: self.arm.examples],
            noise_key,
        )
        return hessian_spectrum(
            *(hessian_product(loss, params), params, start_key),
            iterations=self.arm.iterations,
            vectors=self.arm.vectors,
        )

    def negative(self, numbers: Any, params: Any, target: State, key: jax.Array) -> jax.Array:
        """Of the gradients of the TD loss, pair by pair."""
        arm, learner = self.run.learner(numbers)
        x_NHWC, true_N, of_class_CM = self.data
        batch = transitions(arm.mdp, self.data.labels_N, of_class_CM, true_N, key, self.arm.pairs)
        following = learner.outputs(target.params, {}, x_NHWC[batch.next_image_B])
        best_B = jnp.max(decode(arm.choices.head, learner.shaped(following.outputs_BO)), -1)
        value_B = batch.reward_B + arm.discount * best_B

        def loss(params: Any, example: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            image, action, value = example
            outputs_O = learner.outputs(params, {}, x_NHWC[image][None]).outputs_BO[0]
            return jnp.square(outputs_O[action] - value)

        examples = (batch.image_B, batch.action_B, value_B)
        return negative_share(cosines(gradient_products(loss, params, examples)))


def walked(params: Any, length: jax.Array, key: jax.Array) -> Any:
    """A step of this length in a direction that is drawn uniformly."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = jax.tree.unflatten(
        structure,
        [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)],
    )
    scale = length / optax.tree.norm(noise)
    return jax.tree.map(lambda leaf, draw: leaf + scale * draw, params, noise)


def train_walks(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Both ways of each seed run as one, and all seeds; the cells that are asked for are given."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    arm: WalkArm = cells[0].choices
    group = [Cell("", arm.td, seed) for seed in seeds]
    walk = Walk(arm, pictures(arm.td.source, arm.td.images))
    numbers, keys = numbers_of(group), seeds_of(group)
    pair = jax.jit(jax.vmap(walk.start))(numbers, keys)
    renewal = jax.jit(jax.vmap(walk.renewal, in_axes=(0, 0, 0, None)))
    measured = jax.jit(lambda *stacked: jax.lax.map(lambda one: walk.measured(*one), stacked))
    before = measured(numbers, keys, pair)
    for number in range(arm.td.renewals):
        pair = renewal(numbers, keys, pair, jnp.asarray(number, jnp.int32))
    before, after = jax.device_get((before, measured(numbers, keys, pair)))
    for cell in cells:
        number = seeds.index(cell.seed)
        of_seed = [
            jax.tree.map(lambda leaf, n=number: leaf[n], one[cell.choices.way])
            for one in (before, after)
        ]
        yield cell, as_json(dict(zip(("before", "after"), of_seed, strict=True)))


def density_at(at_G: jax.Array, spectra: Sequence[Mapping[str, Any]]) -> jax.Array:
    """[seeds, G]: the density of each seed's eigenvalues, smoothed by a step between the points."""
    width = float(at_G[1] - at_G[0])
    return jnp.stack(
        [
            density(Spectrum(*(jnp.asarray(one[n]) for n in Spectrum._fields)), at_G, width)
            for one in spectra
        ]
    )


def conclude_walks(arms: Arms) -> Findings:
    """Top eigenvalue and opposed gradients, before and after."""
    rows = {}
    for arm, cells in arms.items():
        for when in ("before", "after"):
            top_S = values(cells, when, "spectrum", "values_RK").max((1, 2))
            rows[f"{arm}, {when}"] = {
                "top eigenvalue": t_interval(top_S),
                "negative share": t_interval(values(cells, when, "negative")),
            }
    top = {name: row["top eigenvalue"].mean for name, row in rows.items()}
    negative = {name: row["negative share"].mean for name, row in rows.items()}
    words = "; ".join(f"{name}: {top[name]:.2f}, {negative[name]:.0%} opposed" for name in rows)
    largest = max(top.values())
    at_G = jnp.linspace(-0.2 * largest, 1.1 * largest, 200)
    curves = [
        curve(
            arm,
            at_G.tolist(),
            np.asarray(density_at(at_G, [cell["after"]["spectrum"] for cell in cells])),
        )
        for arm, cells in arms.items()
    ]
    seeds = max(len(cells) for cells in arms.values())
    return Findings(
        f"largest eigenvalue and share of opposed gradients. {words}.",
        {name: {n: as_numbers(one) for n, one in row.items()} for name, row in rows.items()},
        [findings.interval_table("Landscape before and after moving targets", "way", rows)],
        {
            "spectrum": partial(
                lines,
                curves=[dataclasses.replace(one, low=None, high=None) for one in curves],
                title="Density of the Hessian's eigenvalues, an arbitrary target",
                xlabel="eigenvalue",
                ylabel="density",
                log_y=True,
                note=method(seeds, "seeds"),
            )
        },
    )


def walk_arms(td: TDArm, **sizes: Any) -> dict[str, WalkArm]:
    """Both ways."""
    ways: tuple[Literal["gradient descent", "random walk"], ...] = (
        "gradient descent",
        "random walk",
    )
    return {way: WalkArm(td=td, way=way, **sizes) for way in ways}


WALKS = Experiment(
    name="walk",
    question="does gradient descent leave a sharper landscape than a random walk of equal steps?",
    cost="15 CPU minutes",
    arms=walk_arms(
        TDArm(
            choices=Choices(network=MLPConfig(), algorithm="sgd"),
            renewals=5,
            renew=2000,
            batch_size=512,
        )
    ),
    measure=train_walks,
    conclude=conclude_walks,
)
