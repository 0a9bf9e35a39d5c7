# SPDX-License-Identifier: Apache-2.0
"""The synthetic tasks by name, and how well a model does one at a length, in constant memory.

B sequences at once, T time (the length), A answers.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from eval.tasks import induction_heads, selective_copying
from recurrentgemma.config import GriffinConfig
from recurrentgemma.generation.walk import ChunkProgram
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import token_log_probs_and_likeliest

TaskName = Literal["selective_copying", "induction_heads"]
Draw = Callable[[jax.Array, int, int], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticTask:
    """draw(key, B, T) gives (tokens_BT, answers_BA): what a model has to give at the last A tokens.

    length: that models are trained at. window: of Griffin's attention layer. Both are the paper's.
    """

    draw: Draw
    answers: int
    shortest: int
    length: int
    window: int


TASKS: dict[str, SyntheticTask] = {
    "selective_copying": SyntheticTask(
        draw=selective_copying.draw,
        answers=selective_copying.ANSWERS,
        shortest=selective_copying.SHORTEST,
        length=1024,
        window=512,
    ),
    "induction_heads": SyntheticTask(
        draw=induction_heads.draw,
        answers=induction_heads.ANSWERS,
        shortest=induction_heads.SHORTEST,
        length=256,
        window=128,
    ),
}


class Solved(NamedTuple):
    """Of `sequences`: how many answers were right, and how many sequences with all answers."""

    answers: int
    whole: int
    sequences: int


def measure(
    config: GriffinConfig,
    params,
    task: SyntheticTask,
    length: int,
    *,
    sequences: int,
    batch_size: int,
    seed: int,
) -> Solved:
    """How many of `sequences` new ones of this length a model solves; the state is carried from
    chunk to chunk, so memory does not grow with the length (but for global attention, which holds
    its context_length)."""
    if "global_attention" in config.block_types:
        config = dataclasses.replace(config, context_length=length)
    program, draw = _program(config), _draw(task.draw, batch_size, length)
    answers = whole = 0
    for batch in range(-(-sequences // batch_size)):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), length), batch)
        tokens_BT, answers_BA = jax.device_get(draw(key))
        targets_BT = np.zeros_like(tokens_BT)
        targets_BT[:, -task.answers :] = answers_BA
        right_BA = np.zeros(answers_BA.shape, bool)
        walk = program.walk(params, list(tokens_BT), targets=list(targets_BT))
        for chunk, (_, likeliest_BT) in walk.results():
            for place in range(task.answers):
                column = length - task.answers + place - chunk.start
                if 0 <= column < chunk.lengths_B[0]:
                    right_BA[:, place] = likeliest_BT[:, column]
        right_BA = right_BA[: sequences - batch * batch_size]
        answers += int(right_BA.sum())
        whole += int(right_BA.all(axis=1).sum())
    return Solved(answers, whole, sequences)


@lru_cache(maxsize=4)
def _program(config: GriffinConfig) -> ChunkProgram:
    graphdef = nnx.split(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))))[0]
    return ChunkProgram(token_log_probs_and_likeliest, graphdef, config)


@lru_cache(maxsize=64)
def _draw(draw: Draw, batch_size: int, length: int):
    return jax.jit(partial(_drawn, draw, batch_size, length))


def _drawn(draw: Draw, batch_size: int, length: int, key: jax.Array):
    return draw(key, batch_size, length)
