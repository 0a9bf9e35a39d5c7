# SPDX-License-Identifier: Apache-2.0
"""What a run reads that learns from preferences, and how it is scored on those that it does not
learn from; the other runs' is training/inputs.py."""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from recurrentgemma import sharding
from recurrentgemma.sharded import on_mesh
from recurrentgemma.text.tokenizer import Tokenizer
from training.configs import TrainConfig
from training.finetuning.preference_batches import PreferenceBatches
from training.finetuning.preference_losses import Preferred
from training.finetuning.preferences import Preference, PreferenceReader
from training.run import run_tokenizer

EVAL_EXAMPLES = 256  # that an evaluation before the last step reads, at most


@dataclasses.dataclass(frozen=True)
class PreferenceInputs:
    """Of one run."""

    tokenizer: Tokenizer
    config: TrainConfig
    examples: list[Preference]
    held_out: list[Preference]

    def batches(
        self, rows: range, mesh: Mesh | None, examples: list[Preference] | None = None
    ) -> PreferenceBatches:
        """Of what is learned from, or once of the examples given."""
        config = self.config
        return PreferenceBatches(
            self.examples if examples is None else examples,
            batch_size=config.batch_size,
            row_length=config.sequence_length,
            seed=config.seed,
            epochs=config.data.epochs if examples is None else 1.0,
            rows=rows,
            multiple=1 if mesh is None else mesh.shape["sequence"],
        )

    def bytes_per_token(self) -> None:
        """The loss is not of text."""

    def describe(self) -> str:
        """For the first line that a run prints."""
        assert self.config.preference is not None
        kind = "pairs" if self.config.preference.method == "dpo" else "answers"
        held_out = f"; {len(self.held_out):,} held out" if self.held_out else "; nothing held out"
        typical = statistics.median(example.length for example in self.examples)
        return f"{len(self.examples):,} {kind}, of {typical:,.0f} tokens at the median{held_out}"

    def scored(self, *, whole: bool) -> list[Preference]:
        """What is scored, all of it or its beginning."""
        return self.held_out if whole else self.held_out[:EVAL_EXAMPLES]


def open_preferences(config: TrainConfig, run_dir: Path) -> PreferenceInputs:
    """Read them, with the run's tokenizer. Writes nothing. Raises UserError, which names the line:
    preferences.py."""
    assert config.preference is not None
    tokenizer = run_tokenizer(run_dir, config, ())
    reader = PreferenceReader(config.preference, tokenizer, most=config.sequence_length)
    learned = reader.read(config.preference.pairs)
    return PreferenceInputs(tokenizer, config, learned, reader.read(config.preference.held_out))


@functools.cache
def measure(
    graphdef: nnx.GraphDef, objective: Preferred, mesh: Mesh | None
) -> Callable[..., tuple[dict[str, jax.Array], jax.Array]]:
    """The metrics of a batch, and how many examples it has."""

    def run(params: Any, frozen: Any, start: Any, batch: Any) -> tuple[Any, jax.Array]:
        model = nnx.merge(graphdef, params, frozen) if frozen else nnx.merge(graphdef, params)
        _, (metrics, _) = objective(model, frozen or start, batch, None, ())
        return metrics, objective.count(batch)

    if mesh is None:
        return jax.jit(run)

    def on_all(params: Any, frozen: Any, start: Any, batch: Any) -> tuple[Any, jax.Array]:
        specs = (*map(sharding.specs, (params, frozen, start)), sharding.BATCH)
        outs = (dict.fromkeys(objective.names, P()), P())
        return on_mesh(mesh, run, specs, outs)(params, frozen, start, batch)

    return jax.jit(on_all)


def score(
    batches: Iterable[Any], run: Callable[[Any], tuple[dict[str, jax.Array], jax.Array]]
) -> dict[str, float]:
    """Means over all examples, by name."""
    sums: dict[str, float] = {}
    examples = 0.0
    for batch in batches:
        metrics, count = run(batch)
        examples += float(count)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value) * float(count)
    return {
        f"held_out_{'loss' if name == 'nll' else name}": value / examples
        for name, value in sums.items()
        if name != "tokens"
    }
