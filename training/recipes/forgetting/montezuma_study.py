# SPDX-License-Identifier: Apache-2.0
"""Montezuma's Revenge: minutes of what the paper runs for days, and its own runs as a preset.

    griffin recipe forgetting montezuma                    # small networks, 4 games
    griffin recipe forgetting --preset montezuma-paper --interventions bc

PPO with random network distillation, from scratch, from a copy of what leads through the later
rooms, and from it with BC, KS or EWC. The paper's weights of BC are in a figure, and of the others
nowhere: these are ours.
"""

import dataclasses
from typing import Any

from eval.dynamic.retention import Weight
from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.experiment import Experiment, Findings, Preset, PresetOptions
from training.recipes.findings import Arms
from training.recipes.forgetting.montezuma import FRAME_SKIP
from training.recipes.forgetting.montezuma_run import MontezumaArm, measure_in
from training.recipes.forgetting.short_runs import conclude_short
from training.recipes.rl.curiosity import LEAKY, CuriosityChoices
from training.recipes.rl.curious_ppo import CuriousChoices
from training.recipes.rl.host_loop import Schedule
from training.recipes.rl.networks import ConvConfig, ConvLayer

PAPER_STEPS = 50_000_000
METHODS: dict[str, dict[str, Any]] = {
    "scratch": {"begins": "scratch"},
    "fine-tuning": {},
    "bc": {"method": "bc", "weight": Weight(start=1.0)},
    "ks": {"method": "ks", "weight": Weight(start=0.5, decay=0.99998)},
    "ewc": {"method": "ewc", "weight": Weight(start=100.0)},
}
SHOWN = ("return", "loss", "held_loss", "novelty", "likelihood", "room_success")
GAME = "ALE/MontezumaRevenge-v5"


def small_arms(**smaller: Any) -> dict[str, MontezumaArm]:
    """Two convolutions and a layer of 128, 4 games, rollouts of 64; FAR from the third room of the
    way on, which the search comes to."""
    layers = (ConvLayer(16, 8, 4), ConvLayer(32, 4, 2))
    network = ConvConfig(layers=layers, widths=(128,))
    target = dataclasses.replace(network, widths=(), style=LEAKY)
    curiosity = CuriosityChoices(
        target=target, predictor=dataclasses.replace(target, widths=(128,)), outputs=128
    )
    choices = CuriousChoices(
        network=network, curiosity=curiosity, environments=4, rollout=64, epochs=2
    )
    schedule = Schedule(environments=4, rollout=64, steps=8_192, measured=4)
    arm = MontezumaArm(choices=choices, schedule=schedule, critic_updates=4, warmed=50 * 8)
    arm = dataclasses.replace(arm, **smaller)
    return {name: method_of(arm, name) for name in METHODS}


def method_of(arm: MontezumaArm, name: str) -> MontezumaArm:
    """With what is done; a new policy's values need no training of their own."""
    changed = METHODS[name]
    updates = 0 if "begins" in changed else arm.critic_updates
    return dataclasses.replace(arm, critic_updates=updates, **changed)


def paper_arms(options: PresetOptions) -> dict[str, MontezumaArm]:
    """By the paper's settings. Raises UserError: there is no such method or game."""
    arms = {}
    for environment in options.environments:
        if environment != GAME:
            raise UserError(f"--environments {environment!r}: expected {GAME}")
    for name in options.interventions:
        if name not in METHODS:
            raise UserError(
                f"--interventions {name!r}{did_you_mean(name, METHODS)}: expected some of "
                f"{', '.join(map(repr, METHODS))}"
            )
        for epochs in options.epochs:
            arm = MontezumaArm(
                choices=CuriousChoices(epochs=epochs),
                schedule=Schedule(environments=128, rollout=128, steps=options.steps, measured=20),
                searched=20_000_000,
                first_far=7,
                shown=500,
                copied=20_000,
                critic_updates=50,
                warmed=50 * 128,
                tries=20,
                tried_steps=1_000,
            )
            arms[f"{epochs}/{name}"] = method_of(arm, name)
    return arms


def conclude(arms: Arms) -> Findings:
    """See short_runs.py."""
    return conclude_short(arms, SHOWN, steps=PAPER_STEPS, frames=FRAME_SKIP)


def montezuma_experiment(
    name: str, cost: str, arms: dict[str, MontezumaArm], seeds: int
) -> Experiment:
    """Of these arms."""
    return Experiment(
        name=name,
        question="what keeps later rooms in mind while an agent learns the first ones?",
        cost=cost,
        arms=arms,
        measure_in=measure_in,
        conclude=conclude,
        seeds=seeds,
    )


MONTEZUMA = montezuma_experiment("montezuma", "about 30 CPU minutes, an estimate", small_arms(), 1)
MONTEZUMA_PAPER = Preset(
    name="montezuma-paper",
    what="the paper's settings, 50 million steps (our choice), FAR from the seventh room on",
    options=PresetOptions(
        environments=(GAME,), epochs=(4,), interventions=tuple(METHODS), steps=PAPER_STEPS
    ),
    experiment=lambda options: montezuma_experiment(
        "montezuma-paper", "GPU days", paper_arms(options), 5
    ),
)
