# SPDX-License-Identifier: Apache-2.0
"""NetHack as a Human Monk: minutes of what the paper runs for days, and its own runs as a preset.

    griffin recipe forgetting nethack                     # small network, 23 actions
    griffin recipe forgetting --preset nethack-paper --interventions 'lstm/ks'

An arm is a core and what is done: `scratch`, `fine-tuning` from the copy, it with `bc`, `ks` or
`ewc`, and `scratch+ks`, where a new policy is held to the copy, so that the term has far to fall.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from eval.dynamic.retention import Weight
from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.experiment import Experiment, Findings, Preset, PresetOptions
from training.recipes.findings import Arms
from training.recipes.forgetting.nethack import Game
from training.recipes.forgetting.nethack_network import paper_network, small_network
from training.recipes.forgetting.nethack_run import HackRun, measure_in
from training.recipes.forgetting.short_runs import conclude_short
from training.recipes.rl.cores import CoreKind
from training.recipes.rl.host_loop import Schedule
from training.recipes.rl.recurrent_host import MemoryChoices

PAPER_STEPS = 500_000_000  # of KS, fine-tuning and scratch; the paper has 2 billion of BC
CRITIC_STEPS = 500_000_000
CORES: tuple[CoreKind, ...] = ("lstm", "hawk")
GAME, KEYBOARD = "NetHackScore", "NetHackChallenge"
KS = Weight(start=0.5, decay=0.99998)
SHOWN = ("return", "score", "depth", "held_loss", "value_loss", "far_likelihood", "far_gain")


def methods(ewc: float) -> dict[str, dict[str, Any]]:
    """What is done, by name; the paper's weights, but for that of EWC."""
    return {
        "scratch": {"begins": "scratch"},
        "fine-tuning": {},
        "bc": {"method": "bc", "weight": Weight(start=2.0)},
        "ks": {"method": "ks", "weight": KS},
        "ewc": {"method": "ewc", "weight": Weight(start=ewc)},
        "scratch+ks": {"begins": "scratch", "method": "ks", "weight": KS},
    }


def arm_of(arm: HackRun, name: str, critic_steps: int, ewc: float) -> HackRun:
    """With what is done. Encoders stay as they were copied, and entropy is paid for without a
    method alone."""
    changed = methods(ewc)[name]
    entropy = 0.0 if "method" in changed else arm.choices.entropy
    from_copy = "begins" not in changed
    choices = dataclasses.replace(
        arm.choices, entropy=entropy, frozen=("encoder",) if from_copy else ()
    )
    steps = critic_steps if from_copy else 0
    return dataclasses.replace(arm, choices=choices, critic_steps=steps, **changed)


def small_arms(**smaller: Any) -> dict[str, HackRun]:
    """A network of 128 units, 8 games of NetHackScore, a discount of 0.99."""
    environments, rollout = 8, 32
    arms = {}
    of_core: dict[CoreKind, Sequence[str]] = {
        "lstm": tuple(methods(0.0)),
        "hawk": ("fine-tuning", "ks"),
    }
    for kind, names in of_core.items():
        arm = HackRun(
            network=small_network(kind),
            game=Game(limit=5_000),
            choices=MemoryChoices(
                environments=environments,
                rollout=rollout,
                rows=environments,
                learning_rate=3e-4,
                discount=0.99,
                trace=0.95,
            ),
            schedule=Schedule(environments=environments, rollout=rollout, steps=8_192, measured=4),
            stored=128,
            copied=150,
            openings=4,
            opening_depth=3,
        )
        arm = dataclasses.replace(arm, **smaller)
        for name in names:
            arms[f"{kind}/{name}"] = arm_of(arm, name, critic_steps=1_024, ewc=1e4)
    return arms


def paper_arms(options: PresetOptions) -> dict[str, HackRun]:
    """Cores x methods, at the paper's size. Raises UserError: there is no such method or game."""
    arms = {}
    for environment in options.environments:
        if environment not in (GAME, KEYBOARD):
            raise UserError(f"--environments {environment!r}: expected {GAME} or {KEYBOARD}")
    for name in options.interventions:
        if name not in INTERVENTIONS:
            raise UserError(
                f"--interventions {name!r}{did_you_mean(name, INTERVENTIONS)}: expected some of "
                f"{', '.join(map(repr, INTERVENTIONS))}"
            )
        kind, _, done = name.partition("/")
        for environment in options.environments:
            for epochs in options.epochs:
                arm = HackRun(
                    network=paper_network("lstm" if kind == "lstm" else "hawk"),
                    game=Game(challenge=environment == KEYBOARD),
                    choices=MemoryChoices(epochs=epochs),
                    schedule=Schedule(
                        environments=128, rollout=32, steps=options.steps, measured=20
                    ),
                    stored=8_000,
                    copied=20_000,
                    copied_rows=128,
                    openings=200,
                    opening_steps=5_000,
                )
                steps = min(CRITIC_STEPS, options.steps)
                arms[f"{environment}/{epochs}/{name}"] = arm_of(arm, done, steps, ewc=2e6)
    return arms


def conclude(arms: Arms) -> Findings:
    """See short_runs.py."""
    return conclude_short(arms, SHOWN, steps=PAPER_STEPS, frames=1)


def nethack_experiment(name: str, cost: str, arms: dict[str, HackRun], seeds: int) -> Experiment:
    """Of these arms."""
    return Experiment(
        name=name,
        question="what keeps a NetHack player from forgetting how to play below the first level?",
        cost=cost,
        arms=arms,
        measure_in=measure_in,
        conclude=conclude,
        seeds=seeds,
    )


INTERVENTIONS: Sequence[str] = tuple(f"{kind}/{name}" for kind in CORES for name in methods(0.0))
NETHACK = nethack_experiment("nethack", "about 25 CPU minutes, an estimate", small_arms(), 1)
NETHACK_PAPER = Preset(
    name="nethack-paper",
    what="Human Monk at the paper's size: 500 million steps, LSTM of 1738 or Hawk of 1736",
    options=PresetOptions(
        environments=(KEYBOARD,), epochs=(1,), interventions=INTERVENTIONS, steps=PAPER_STEPS
    ),
    experiment=lambda options: nethack_experiment(
        "nethack-paper", "GPU days", paper_arms(options), 5
    ),
)
