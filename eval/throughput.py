# SPDX-License-Identifier: Apache-2.0
"""Seconds of a decoded token against how much was read before it, and against the batch.

The Griffin paper's figures 4 (section 5: time per token after an empty prompt and a long one) and
1b (tokens/s of sampling L tokens from nothing, at the best batch). A transformer's cache grows with
what it has read, a state does not, and decoding is as fast as its bytes are read:

    seconds >= (bytes of parameters + B * bytes of state) / bandwidth          section 5.2

What is timed is the program that generates text (generation/decode.py), greedy. The state is made
at its place instead of read to it: its values change no time. A model with global attention holds
exactly what the cell needs, which is the best that it can have.

B batch.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import parameter_count, state_bytes
from recurrentgemma.errors import UserError
from recurrentgemma.generation.decode import CAPACITY, DecodeOptions, DecodeState, Generator
from recurrentgemma.generation.draw import sampling_arrays
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State, init_state

PLACES = 4  # in an answer, at which the time per token is taken for its mean


class Measured:
    """A model whose speed is asked for. params: by nnx.split, however they came about."""

    def __init__(self, name: str, config: GriffinConfig, params: Any) -> None:
        self.name, self.config, self.params = name, config, params
        self._generator: tuple[GriffinConfig, Generator] | None = None

    @staticmethod
    def of(name: str, model: Griffin) -> "Measured":
        return Measured(name, model.config, nnx.split(model, nnx.Param)[1])

    def generator(self, config: GriffinConfig) -> Generator:
        """The programs of the model with another context_length, compiled once while that stays."""
        if self._generator is None or self._generator[0] != config:
            graphdef = nnx.split(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))))[0]
            compiled = Generator(graphdef, self.params, config, config.vocab_size)
            self._generator = config, compiled
        return self._generator[1]


@dataclasses.dataclass(frozen=True)
class Cell:
    """`batch` rows, each after `context` tokens. answer: tokens generated from nothing, instead."""

    batch: int
    context: int
    answer: int = 0

    @property
    def places(self) -> list[int]:
        """The numbers of tokens read, after which tokens are timed."""
        if not self.answer:
            return [self.context]
        return np.linspace(0, self.answer, PLACES, endpoint=False).astype(int).tolist()


def cells(contexts: Sequence[int], answers: Sequence[int], batches: Sequence[int]) -> list[Cell]:
    """Of figure 4 and of figure 1b. Raises UserError: a number is below what it counts."""
    for name, numbers, least in (("context", contexts, 0), ("answer", answers, 1)):
        if any(number < least for number in numbers):
            raise UserError(f"{name}={min(numbers)}: expected at least {least}")
    if not batches or min(batches) < 1:
        raise UserError(f"batch={min(batches, default=None)}: expected at least 1")
    after = [Cell(batch, context) for context in contexts for batch in batches]
    return after + [Cell(batch, 0, answer) for answer in answers for batch in batches]


def measure(
    models: Sequence[Measured], cell: Cell, *, tokens: int = 16, rounds: int = 5
) -> dict[str, list[float]]:
    """Seconds of a step (a token of each row) of each model by name, one a round.

    The models take turns within a round, so that what else runs on the machine slows them alike.
    tokens: in a row, timed together.
    Raises UserError: more tokens than one program decodes.
    """
    if not 1 <= tokens <= CAPACITY:
        raise UserError(f"tokens={tokens}: expected 1 to {CAPACITY}, which are decoded together")
    runs = {model.name: _Run(model, cell, tokens, rounds) for model in models}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):  # the first compiles
        for name, run in runs.items():
            taken = run.turn()
            if turn:
                seconds[name].append(taken)
    return seconds


class _Run:
    """The states of one model at the places of a cell."""

    def __init__(self, model: Measured, cell: Cell, tokens: int, rounds: int) -> None:
        room = tokens * (rounds + 1)
        config = model.config
        if "global_attention" in config.block_types:
            held = max(cell.answer, cell.context + room)
            config = dataclasses.replace(config, context_length=held)
        self._generator = model.generator(config)
        rows = [Sampling(max_tokens=2**30)] * cell.batch
        self._options = DecodeOptions(
            sampling_arrays(rows),
            np.full((cell.batch, 1), -1, np.int32),
            np.full(cell.batch, 2**30, np.int32),
        )
        self._tokens = tokens
        last = max(0, cell.answer - room)  # where the answer is short, places come together
        places = [min(place, last) if cell.answer else place for place in cell.places]
        self._at = [_begin(config, cell.batch, place) for place in places]

    def turn(self) -> float:
        """Decode at each place. Returns the mean seconds of a step."""
        start = time.perf_counter()
        for i, decode_state in enumerate(self._at):
            self._at[i], decoded = self._generator.advance(
                decode_state, self._options, self._tokens
            )
        jax.block_until_ready(decoded)
        return (time.perf_counter() - start) / (self._tokens * len(self._at))


def _begin(config: GriffinConfig, batch: int, place: int) -> DecodeState:
    """Rows that have read `place` tokens."""

    @jax.jit
    def make() -> DecodeState:
        state = init_state(config, batch)
        layers = jax.tree.map(
            lambda x: jax.random.normal(jax.random.key(0), x.shape, x.dtype), state.layers
        )
        position_B = jnp.full((batch,), place, jnp.int32)
        zero_B = jnp.zeros((batch,), jnp.int32)
        done_B = jnp.zeros((batch,), bool)
        return DecodeState(State(position_B, state.wrapped_B, layers), zero_B, zero_B, done_B)

    return make()


def row(model: Measured, cell: Cell, seconds: Sequence[float]) -> dict[str, Any]:
    """The numbers of one model in one cell: milliseconds of a step (median, least, most), tokens/s
    of all rows, and the bytes that a step has to read."""
    held = cell.answer or cell.context
    config = dataclasses.replace(model.config, context_length=max(1, held))
    item = {"float32": 4, "bfloat16": 2}[config.param_dtype]
    median = statistics.median(seconds)
    return {
        "model": model.name,
        "batch": cell.batch,
        "context": cell.context,
        "answer": cell.answer,
        "milliseconds": 1e3 * median,
        "least": 1e3 * min(seconds),
        "most": 1e3 * max(seconds),
        "tokens_per_second": cell.batch / median,
        "parameter_bytes": parameter_count(config) * item,
        "state_bytes": cell.batch * state_bytes(config),
    }


def throughput(
    models: Sequence[Measured],
    wanted: Iterable[Cell],
    *,
    tokens: int = 16,
    rounds: int = 5,
    report: Callable[[Cell], None] = lambda cell: None,
) -> Iterable[tuple[Cell, list[dict[str, Any]]]]:
    """Each cell with the numbers of all models in it."""
    for cell in wanted:
        report(cell)
        seconds = measure(models, cell, tokens=tokens, rounds=rounds)
        yield cell, [row(model, cell, seconds[model.name]) for model in models]


def best_batches(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figure 1b: of each model and answer's length the row with the most tokens/s."""
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for one in rows:
        key = one["model"], one["answer"]
        if one["answer"] and (
            key not in best or one["tokens_per_second"] > best[key]["tokens_per_second"]
        ):
            best[key] = one
    return list(best.values())
