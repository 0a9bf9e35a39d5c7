# SPDX-License-Identifier: Apache-2.0
"""Reward functions from files, exact answers, and what a reward may not be."""

from pathlib import Path

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.finetuning.small_policy import questions
from training.finetuning.reward import exact, load_reward, rewards

CODE = """
from words import WORD

def good(prompt, answer, row):
    return (answer == WORD) + len(prompt) + 10 * len(row["answer"])

def raises(prompt, answer, row):
    return row["absent"]

def nothing(prompt, answer, row):
    return None

def nan(prompt, answer, row):
    return float("nan")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "words.py").write_text("WORD = 'e'\n")
    path = tmp_path / "my_rewards.py"
    path.write_text(CODE)
    return path


def test_a_function_gets_prompt_answer_and_row(file: Path):
    asked = questions()[:2]
    got = rewards(load_reward(f"{file}:good"), "good", asked, ["e", "f"])
    np.testing.assert_array_equal(got, [13, 15])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(rewards(exact("answer"), "exact", asked, [" e\n", "ee"]), [1, 0])


def test_what_cannot_be_loaded(file: Path, tmp_path: Path):
    for named, message in {
        "rewards": "expected FILE.py:FUNCTION",
        f"{file}:": "expected FILE.py:FUNCTION",
        f"{tmp_path}/absent.py:good": "there is no file",
        f"{file}:god": r"has no function 'god' \(did you mean 'good'\?\)",
        f"{file}:WORD": "has no function 'WORD'",
    }.items():
        with pytest.raises(UserError, match=message):
            load_reward(named)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"broken\.py cannot be run: ZeroDivisionError"):
        load_reward(f"{tmp_path}/broken.py:good")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "of the answer 'x' to file:0: it raised KeyError: 'absent'"),
        ("nothing", "it returned None; expected a number"),
        ("nan", "it returned nan; expected a finite number"),
    ],
)
def test_what_is_no_reward(file: Path, name: str, message: str):
    with pytest.raises(UserError, match=message):
        rewards(load_reward(f"{file}:{name}"), name, questions()[:1], ["x"])
