# SPDX-License-Identifier: Apache-2.0
"""The study of a language model, small: every method runs, holds where it should, and the findings
are those of its numbers."""

import dataclasses

import numpy as np
import pytest

from training.recipes.experiment import Cell
from training.recipes.forgetting.language_study import (
    FORGOTTEN,
    LANGUAGE,
    LEARNED,
    METHODS,
    NOTHING,
    DomainRows,
    LanguageArm,
    conclude,
    forgotten,
    language_arms,
    learned,
    measure,
    read_domain,
)

TEXTS = {
    "novel": "the cat sat on the mat and then the cat ate. ",
    "licence": "PERMISSION IS GRANTED; WITHOUT LIMIT, TO ANY. ",
    "address": "0123456789 9876543210 5555 4444 3333 2222 11 ",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LanguageArm:
    folder, sources = tmp_path_factory.mktemp("texts"), []
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text * 60)
        sources.append(f"text:{folder / name}.txt")
    return LanguageArm(
        width=32,
        layers=2,
        base_steps=30,
        steps=20,
        batch_size=4,
        length=16,
        fisher_rows=8,
        measured=2,
        scored=4,
        learning_rate=1e-2,
        kept=tuple(sources[:2]),
        new=sources[2],
    )


@pytest.mark.parametrize(
    "methods", [("kl", "ewc"), pytest.param(tuple(METHODS), marks=pytest.mark.slow)], ids=len
)
def test_methods(methods: tuple[str, ...], small: LanguageArm):
    """With a large weight what compares with the base stays near to it."""
    weights = {"kl": 30.0, "kl on its own rows": 30.0, "replay": 3.0, "ewc": 1e3, "l2-sp": 30.0}
    arms = {NOTHING: small}
    for name in methods:
        weight = weights.get(name, 1e-4)
        arms[f"{name} {weight:g}"] = dataclasses.replace(small, method=name, weight=weight)
    cells = [Cell(arm, choices, 0) for arm, choices in arms.items()]
    numbers = {
        cell.arm: [{**of, "choices": dataclasses.asdict(cell.choices)}]
        for cell, of in measure(cells)
    }
    assert numbers.keys() == arms.keys()
    lost = {arm: float(forgotten(of)[0, -1]) for arm, of in numbers.items()}
    gained = {arm: float(learned(of)[0, -1]) for arm, of in numbers.items()}
    assert lost[NOTHING] > 0.1
    assert gained[NOTHING] > 0.5
    for arm, of_arm in lost.items():
        if arm != NOTHING and not arm.startswith("l2 "):
            assert of_arm < 0.8 * lost[NOTHING], arm
    assert all(len(of[0]["new"]) == 3 for of in numbers.values())
    findings = conclude(numbers)
    assert findings.numbers["arms"][NOTHING][LEARNED]["mean"] == pytest.approx(gained[NOTHING])
    assert findings.numbers["arms"][NOTHING][FORGOTTEN]["mean"] == pytest.approx(lost[NOTHING])
    assert NOTHING in findings.verdict
    assert findings.numbers["best"].keys() == {NOTHING, *methods}


def test_the_same_seed_has_the_same_rows_and_the_tail_is_held_out(small: LanguageArm):
    domain = read_domain(small.new)
    assert len(domain.held_out_L) == len(domain.learned_L) // 9
    first, second = (next(DomainRows([domain], 2, 16, seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first.tokens_BT, second.tokens_BT)
    np.testing.assert_array_equal(first.tokens_BT[:, 1:], first.targets_BT[:, :-1])


def test_the_arms():
    arms = language_arms()
    assert len(arms) == 19
    assert LANGUAGE.arms == arms
    assert sum(arm.method == NOTHING for arm in arms.values()) == 1
