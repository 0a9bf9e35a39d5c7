# SPDX-License-Identifier: Apache-2.0
"""One training with pruning, of several seeds side by side: see `train`.

Seeds are a vmapped axis of everything. Units are removed from all at once, so that they stay one
program (method.kept_units); a network that has become smaller is compiled anew, and goes on at the
same step of the same schedules.

Legend: S seeds, U units, K units kept.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from training.pruning.schedules import penalty_schedule
from training.recipes.pruning import method, programs
from training.recipes.pruning.choices import CUTS, FIRST_CUT, Training
from training.recipes.pruning.data import Sets, load_sets
from training.recipes.pruning.programs import Trained
from training.recipes.pruning.widths import (
    is_needed,
    network_widths,
    parameter_count,
    removed,
    shared_axes,
    silenced,
    with_widths,
)

SCORED = 256  # examples by which SNAP and EarlyCroP score
SCORES = {"snap": method.snap_scores, "earlycrop": method.crop_scores}


def train(choices: Training, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The numbers of each seed: accuracy on the test images, live units and parameters left, their
    course, revivals, and the seconds of all seeds together, compilation apart.

    Raises UserError: no unit of a layer is left; the network has no scales to penalise; scores by
    which units are to be removed are not finite.
    """
    sets = load_sets(choices.images, choices.train_images, choices.test_images)
    return Run(choices, sets, seeds).run()


def optimizing(choices: Training) -> Training:
    """The choices that a step is compiled for: arms that differ in others share it."""
    names = ("steps", "looks", "batch_size", "optimizer", "learning_rate", "weight_decay")
    return Training(**{name: getattr(choices, name) for name in names})


class Run:
    """A training on its way. `config` is the network as it is now."""

    def __init__(self, choices: Training, sets: Sets, seeds: Sequence[int]):
        self.choices, self.seeds = choices, seeds
        height, width, channels = sets.train_NHWC.shape[1:]
        self.image_shape = height, width, channels
        self.classes = sets.classes
        arrays = [name for name in sets._fields if name != "classes"]
        self.sets = sets._replace(**{name: jnp.asarray(getattr(sets, name)) for name in arrays})
        config = choices.network
        if choices.method == "small":
            widths = network_widths(config)
            config = with_widths(
                config, {n: max(1, round(choices.density * w)) for n, w in widths.items()}
            )
        self.config, self.dense = config, choices.network
        if choices.method == "demp" and choices.penalty:
            method.scale_paths(self._shared())
        factor = penalty_schedule(choices.schedule, round(choices.span * choices.steps))
        self.factors = np.asarray(jax.vmap(factor)(np.arange(choices.steps, dtype=np.int32)))
        self.tx = programs.make_optimizer(choices)
        self.keys_S = jnp.stack([jax.random.key(seed) for seed in seeds])
        params, stats = jax.vmap(self._network().init)(self.keys_S)
        self.now = Trained(params, stats, jax.vmap(self.tx.init)(params))
        self.compile_seconds = self.compile_cpu = 0.0
        self.curves: list[dict[str, Any]] = []
        self.died: dict[str, np.ndarray] = {}  # [S, U], ever; empty after a removal
        self.revived: dict[str, np.ndarray] = {}

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; the numbers of each seed."""
        choices, started = self.choices, (time.perf_counter(), time.process_time())
        if choices.method == "snap":
            self._prune_by_scores()
        every = choices.steps // choices.looks
        for look in range(1, choices.looks + 1):
            losses_S = self._advance(every * (look - 1), every * look)
            if choices.method in ("dense", "demp"):
                live = self._count(every * look, losses_S)
                if choices.method == "demp" and choices.removes:
                    self._remove_dead(live)
            elif choices.method in ("magnitude", "random"):
                self._cut(look - FIRST_CUT)
            elif choices.method == "earlycrop" and look == 1:
                self._prune_by_scores()
        jax.block_until_ready(self.now.params)
        seconds, cpu_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
        return self._numbers(seconds - self.compile_seconds, cpu_seconds - self.compile_cpu)

    def _advance(self, first: int, stop: int) -> jax.Array:
        factors = jnp.asarray(self.factors[first:stop])
        strengths = (
            factors * (self.choices.penalty if self.choices.method == "demp" else 0.0),
            factors * (self.choices.noise if self.choices.method == "demp" else 0.0),
        )
        steps = jnp.arange(first, stop, dtype=jnp.int32)
        noisy = self.choices.method == "demp" and self.choices.noise > 0
        program = programs.steps_program(
            self.config, self.image_shape, self.classes, optimizing(self.choices), noisy
        )
        args = (self.now, self.keys_S, steps, strengths, self.sets.train_NHWC, self.sets.train_N)
        self.now, losses_ST = self._called(program, *args)
        return losses_ST.mean(1)

    def _called(self, program: Any, *args: Any) -> Any:
        """The program's result; what it takes to compile it is counted apart."""
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        started = time.perf_counter(), time.process_time()
        run = programs.compiled(program, structure, shapes)
        self.compile_seconds += time.perf_counter() - started[0]
        self.compile_cpu += time.process_time() - started[1]
        return run(*args)

    def _scan(self) -> dict[str, np.ndarray]:
        """Which units are alive, [S, U]: not dead on the whole training set."""
        program = programs.scan_program(self.config, self.image_shape, self.classes)
        dead = self._called(program, self.now.params, self.now.stats, self.sets.train_NHWC)
        return {name: ~np.asarray(dead_SU) for name, dead_SU in dead.items()}

    def _count(self, step: int, losses_S: jax.Array) -> dict[str, np.ndarray]:
        live = self._scan()
        for name, live_SU in live.items():
            died_SU = self.died.get(name, np.zeros_like(live_SU))
            revived_SU = self.revived.get(name, np.zeros_like(live_SU))
            self.revived[name] = revived_SU | (died_SU & live_SU)
            self.died[name] = died_SU | ~live_SU
        self.curves.append(
            {
                "step": step,
                "live": np.sum([live_SU.sum(1) for live_SU in live.values()], 0),
                "loss": np.asarray(losses_S),
            }
        )
        return live

    def _remove_dead(self, live: dict[str, np.ndarray]) -> None:
        keep = method.kept_units(live, needed=lambda name: is_needed(self.config, name))
        left, now = (
            sum(index.shape[1] for index in keep.values()),
            sum(network_widths(self.config).values()),
        )
        if now - left >= self.choices.least_dead * now:
            self._remove(keep)

    def _cut(self, number: int) -> None:
        """The cuts of magnitude and random leave density^(1 / CUTS), ^(2 / CUTS), ... of each
        width."""
        if not 0 <= number < CUTS:
            return
        part = self.choices.density ** ((number + 1) / CUTS)
        dense, now = network_widths(self.dense), network_widths(self.config)
        if self.choices.method == "magnitude":
            scores = jax.vmap(lambda p: method.magnitudes(p, self._shared()))(self.now.params)
        else:
            draws = [np.random.default_rng([number, seed]) for seed in self.seeds]
            scores = {
                name: np.stack([draw.random(units) for draw in draws])
                for name, units in now.items()
            }
        masks = {}
        for name, score in scores.items():
            wanted = max(1, round(part * dense[name])) / now[name]
            masks |= method.smallest_out({name: score}, min(1.0, wanted))
        self._remove(
            {name: np.argwhere(mask)[:, 1].reshape(len(mask), -1) for name, mask in masks.items()}
        )

    def _prune_by_scores(self) -> None:
        """SNAP or EarlyCroP: in CUTS parts by masks, then once for all. Units of a seed that only
        another one keeps are silenced."""
        score = SCORES[self.choices.method]
        program = programs.score_program(self.config, self.image_shape, self.classes, score)
        x_NHWC, y_N = (array[:SCORED] for array in (self.sets.train_NHWC, self.sets.train_N))
        ones = {
            name: np.ones((len(self.seeds), units), bool)
            for name, units in network_widths(self.config).items()
        }
        masks = ones
        for k in range(CUTS):
            now = {name: jnp.asarray(mask, jnp.float32) for name, mask in masks.items()}
            scores = self._called(program, self.now.params, self.now.stats, now, x_NHWC, y_N)
            if not all(np.isfinite(of_width).all() for of_width in scores.values()):
                raise UserError(
                    f"the scores of {self.choices.method} are not finite on this network, so that "
                    "they say nothing of its units: choose another method or network"
                )
            part = self.choices.density ** ((k + 1) / CUTS)
            masks = method.smallest_out_everywhere(scores, part)
        kept = {name: jnp.asarray(mask, jnp.float32) for name, mask in masks.items()}
        params, opt_state = jax.vmap(lambda trees, mask: silenced(trees, self._shared(), mask))(
            (self.now.params, self.now.opt_state), kept
        )
        self.now = Trained(params, self.now.stats, opt_state)
        self._remove(method.kept_units(masks, needed=lambda name: False))

    def _remove(self, keep: dict[str, np.ndarray]) -> None:
        """Keep only these units [S, K]; the network is smaller from here on."""
        widths = network_widths(self.config)
        keep = {name: index for name, index in keep.items() if index.shape[1] < widths[name]}
        if not keep:
            return
        self.now = Trained(*(removed(tree, self._shared(), keep) for tree in self.now))
        self.died, self.revived = {}, {}
        smaller = {name: index.shape[1] for name, index in keep.items()}
        self.config = with_widths(self.config, widths | smaller)

    def _numbers(self, seconds: float, cpu_seconds: float) -> list[dict[str, Any]]:
        live = self._scan()
        program = programs.accuracy_program(self.config, self.image_shape, self.classes)
        accuracy_S = self._called(
            program, self.now.params, self.now.stats, self.sets.test_NHWC, self.sets.test_N
        )
        whole = parameter_count(self.dense, self.image_shape, self.classes)
        units = sum(network_widths(self.dense).values())
        numbers = []
        for s in range(len(self.seeds)):
            widths = {name: max(1, int(live_SU[s].sum())) for name, live_SU in live.items()}
            left = parameter_count(with_widths(self.config, widths), self.image_shape, self.classes)
            numbers.append(
                {
                    "accuracy": float(accuracy_S[s]),
                    "units": int(sum(live_SU[s].sum() for live_SU in live.values())),
                    "units_left": float(sum(live_SU[s].sum() for live_SU in live.values()) / units),
                    "parameters": left,
                    "parameters_left": left / whole,
                    "widths": widths,
                    "died": _count_of(self.died, s),
                    "revived": _count_of(self.revived, s),
                    "died_again": _count_of(
                        {n: revived & ~live[n] for n, revived in self.revived.items()}, s
                    ),
                    "seconds": seconds,
                    "cpu_seconds": cpu_seconds,
                    "compile_seconds": self.compile_seconds,
                    "steps": [curve["step"] for curve in self.curves],
                    "live": [int(curve["live"][s]) for curve in self.curves],
                    "loss": [float(curve["loss"][s]) for curve in self.curves],
                }
            )
        return numbers

    def _network(self) -> Any:
        return programs.network_of(self.config, self.image_shape, self.classes)

    def _shared(self) -> method.Shared:
        return shared_axes(self.config, self.image_shape, self.classes)


def _count_of(masks: dict[str, np.ndarray], seed: int) -> int:
    return int(sum(mask_SU[seed].sum() for mask_SU in masks.values()))
