# SPDX-License-Identifier: Apache-2.0
"""Hypernetworks against ANIL and MAML on combinations that no one trained on (2312.15001, section
4).

Families: the hyperteacher, compositional preferences, compositional goals. An arm is a place (a
support, or numbers of modules) with a learner: "M 4, K 2/linear". Of each: accuracy on new tasks of
the training combinations and of held-out ones. The paper's claims: hypernetworks are
the better ones out of distribution where the support is compositional and connected; where it is
not, they fall back, below ANIL at K = 1 (which is disconnected by construction).

Smaller than the paper's, and how: small_hyperteacher, small_preferences, small_goals and
settings.py. Presets have the authors' sizes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.experiment import Experiment, Preset, PresetOptions
from training.recipes.modular.conclusions import PAPER_OUT, conclude
from training.recipes.modular.few_shot import FewShotArm, train_arms
from training.recipes.modular.goals import Goals
from training.recipes.modular.hyperteacher import HyperTeacher
from training.recipes.modular.preferences import Preferences
from training.recipes.modular.settings import (
    LEARNERS,
    Setting,
    goal_settings,
    hyperteacher_settings,
    preference_settings,
)
from training.recipes.modular.support import Kind, Support

Places = Mapping[str, tuple[Any, Mapping[str, Setting]]]
"""Place -> a family and the settings of its learners."""


def small_hyperteacher(support: Support, **changes: Any) -> HyperTeacher:
    """8 inputs, width 8 and 4 outputs in place of 16, 32 and 8; 64 points in place of 256."""
    sizes: dict[str, Any] = {"inputs": 8, "width": 8, "outputs": 4}
    sizes |= {"shots": 64, "queries": 64, "moments": 128}
    return HyperTeacher(support=support, **(sizes | changes))


def small_preferences(support: Support) -> Preferences:
    """Three objects of 6 colours in place of four of 8, 4 rooms of 6 steps in place of 16 of 8."""
    return Preferences(support=support, objects=3, colours=6, shots=4, queries=4, horizon=6)


def small_goals(kind: Any) -> Goals:
    """Mazes of 7 x 7 in place of 11 x 11; three of them and four kinds of object in place of five,
    two distractors in place of four."""
    return Goals(kind=kind, size=7, mazes=3, objects=4, distractors=2, near=5, longest=15)


def few_shot_arms(
    places: Places, *, learners: Sequence[str] = LEARNERS, **sizes: Any
) -> dict[str, FewShotArm]:
    """Every place with every learner. sizes: of FewShotArm."""
    return {
        f"{place}/{name}": settings[name].arm(family, **sizes)
        for place, (family, settings) in places.items()
        for name in learners
    }


def mixtures(modules: int, hots: Sequence[int], family: Callable[..., Any], small: bool) -> Places:
    """M and K, random support."""
    settings = hyperteacher_settings(modules, small=small)
    return {
        f"M {modules}, K {hot}": (
            family(Support(kind="random", modules=modules, hot=hot, layers=2)),
            settings,
        )
        for hot in hots
    }


def hyperteacher_supports(family: Callable[..., Any], small: bool) -> Places:
    """M = 8, K = 2."""
    settings = hyperteacher_settings(8, small=small)
    kinds: tuple[Kind, ...] = ("connected", "disconnected", "non-compositional")
    return {
        kind: (family(Support(kind=kind, modules=8, hot=2, layers=2)), settings) for kind in kinds
    }


def preference_places(family: Callable[..., Any], small: bool) -> Places:
    """M = 8 (small: 6); K = 3 with random and non-compositional support, 2 with the other two."""
    hots: dict[Kind, int] = {
        "random": 3,
        "connected": 2,
        "disconnected": 2,
        "non-compositional": 3,
    }
    modules = 6 if small else 8
    return {
        kind: (
            family(Support(kind=kind, modules=modules, hot=hot)),
            preference_settings(small=small),
        )
        for kind, hot in hots.items()
    }


def goal_places(family: Callable[..., Any], small: bool) -> Places:
    """All supports of goals."""
    return {
        kind: (family(kind), goal_settings(small=small))
        for kind in ("random", "disconnected", "non-compositional")
    }


def _experiment(name: str, question: str, cost: str, places: Places, **sizes: Any) -> Experiment:
    return Experiment(
        name=name,
        question=question,
        cost=cost,
        arms=few_shot_arms(places, **sizes),
        measure=train_arms,
        conclude=partial(conclude, beside=PAPER_OUT if name.startswith("hyperteacher") else None),
    )


SMALL: dict[str, Any] = {"steps": 2000, "tasks": 16, "measured": 10}
FOUR = _experiment(
    "hyperteacher-4",
    "M = 4, K = 1, 2, 4: who generalises to held-out combinations?",
    "30 CPU minutes, an estimate",
    mixtures(4, (1, 2, 4), small_hyperteacher, True),
    **SMALL,
)
EIGHT = _experiment(
    "hyperteacher-8",
    "M = 8, K = 1, 2, 4: who generalises to held-out combinations?",
    "30 CPU minutes, an estimate",
    mixtures(8, (1, 2, 4), small_hyperteacher, True),
    **SMALL,
)
SUPPORTS = _experiment(
    "hyperteacher-supports",
    "M = 8, K = 2: connected, disconnected and non-compositional support",
    "30 CPU minutes, an estimate",
    hyperteacher_supports(small_hyperteacher, True),
    **SMALL,
)
TRANSFER = _experiment(
    "hyperteacher-transfer",
    "trained at M = 8, K = 2: accuracy at other K, and with fewer shots",
    "12 CPU minutes, an estimate",
    {
        "M 8, K 2": (
            small_hyperteacher(
                Support(kind="random", modules=8, hot=2, layers=2), hots=(1, 2, 4, 8)
            ),
            hyperteacher_settings(8, small=True),
        )
    },
    **SMALL,
    test_shots=(8, 16, 32, 128),
)
PREFERENCES = _experiment(
    "preferences",
    "compositional preferences: who generalises, under each support?",
    "30 CPU minutes, an estimate",
    preference_places(small_preferences, True),
    **SMALL | {"steps": 1200, "tasks": 8},
)
GOALS = _experiment(
    "goals",
    "compositional goals: who generalises, under each support?",
    "30 CPU minutes, an estimate",
    goal_places(small_goals, True),
    **SMALL | {"steps": 1500},
)


def paper(name: str, places: Places, options: PresetOptions) -> Experiment:
    """The authors' sizes: 128 tasks an outer step, 1,024 in a test.

    Raises UserError: a place or a learner is not one of these; epochs are given.
    """
    if options.epochs != (1,):
        raise UserError("--epochs has no effect with this preset: leave it out")
    for asked, known in ((options.environments, places), (options.interventions, LEARNERS)):
        for one in asked:
            if one not in known:
                raise UserError(
                    f"{one!r} is unknown{did_you_mean(one, known)}: expected one of "
                    f"{', '.join(known)}"
                )
    measured = next(
        count for count in (100, 50, 20, 10, 5, 4, 3, 2, 1) if not options.steps % count
    )
    arms = few_shot_arms(
        {place: places[place] for place in options.environments},
        learners=options.interventions,
        steps=options.steps,
        tasks=128,
        measured=measured,
        tested=1024,
    )
    return Experiment(
        name=name,
        question="the authors' sizes",
        cost="a GPU's work",
        arms=arms,
        measure=train_arms,
        conclude=partial(conclude, beside=PAPER_OUT if name == "paper-hyperteacher" else None),
    )


def _preset(name: str, places: Places, steps: int) -> Preset:
    return Preset(
        name=name,
        what=f"the authors' {steps:,} steps of 128 tasks; --environments are places, "
        "--interventions learners (a GPU's work)",
        options=PresetOptions(
            environments=tuple(places), epochs=(1,), interventions=LEARNERS, steps=steps
        ),
        experiment=partial(paper, name, places),
    )


def _paper_teacher(support: Support) -> HyperTeacher:
    return HyperTeacher(support=support)


def _paper_preferences(support: Support) -> Preferences:
    return Preferences(support=support)


def _paper_goals(kind: Any) -> Goals:
    return Goals(kind=kind)


PAPER_PRESETS = (
    _preset(
        "paper-hyperteacher",
        {
            **mixtures(4, (1, 2, 4), _paper_teacher, False),
            **mixtures(8, (1, 2, 4), _paper_teacher, False),
            **hyperteacher_supports(_paper_teacher, False),
        },
        200_000,
    ),
    _preset("paper-preferences", preference_places(_paper_preferences, False), 100_000),
    _preset("paper-goals", goal_places(_paper_goals, False), 200_000),
)
