# SPDX-License-Identifier: Apache-2.0
"""What an answer is worth: a user's Python function, or 1 for the exact answer.

    def reward(prompt: str, answer: str, row: dict) -> float: ...       # --reward FILE.py:reward

It should give the same number for the same arguments, so that a run that was stopped goes on as it
would have without. A reward of 1 counts as a right answer (`accuracy`).
"""

import importlib.util
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError, did_you_mean
from training.finetuning.questions import Question

Reward = Callable[[str, str, Mapping[str, Any]], Any]
RIGHT = 1.0  # from this reward on an answer is right


def exact(field: str) -> Reward:
    """1 for the answer in this field of the row, white space around both apart, else 0."""

    def reward(_prompt: str, answer: str, row: Mapping[str, Any]) -> float:
        return float(answer.strip() == row[field].strip())

    return reward


def load_reward(named: str) -> Reward:
    """The function of FILE.py:FUNCTION.

    Raises UserError: there is no such file or function, or the file cannot be run.
    """
    path, _, name = named.rpartition(":")
    expected = "expected FILE.py:FUNCTION, such as rewards.py:reward"
    if not path.endswith(".py") or not name.isidentifier():
        raise UserError(f"reward {named!r}: {expected}")
    if not Path(path).is_file():
        raise UserError(f"reward {named!r}: there is no file {path}; {expected}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(Path(path).resolve().parent)
    sys.path.insert(0, folder)  # as `python FILE.py` has it, for what it imports
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"reward {named!r}: {path} cannot be run: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    function = getattr(module, name, None)
    if not callable(function):
        names = [one for one, value in vars(module).items() if callable(value)]
        raise UserError(
            f"reward {named!r}: {path} has no function {name!r}{did_you_mean(name, names)}"
        )
    return function


def rewards(
    reward: Reward, named: str, questions: Sequence[Question], answers: Sequence[str]
) -> np.ndarray:
    """Of each answer, float32 [B]. named: the function, for messages.

    Raises UserError, which names the line of the prompt: the function raises, or returns what is no
    finite number.
    """
    values = []
    for question, answer in zip(questions, answers, strict=True):
        place = f"reward {named!r}, of the answer {answer!r} to {question.name}"
        try:
            value = reward(question.text, answer, question.row)
        except Exception as error:
            raise UserError(f"{place}: it raised {type(error).__name__}: {error}") from error
        if not isinstance(value, numbers.Real | np.bool_ | np.floating | np.integer):
            raise UserError(f"{place}: it returned {value!r}; expected a number")
        values.append(float(value))
        if not math.isfinite(values[-1]):
            raise UserError(f"{place}: it returned {value!r}; expected a finite number")
    return np.array(values, np.float32)
