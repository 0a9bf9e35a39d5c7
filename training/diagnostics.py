# SPDX-License-Identifier: Apache-2.0
"""The panel of `--diagnostics-every`: what a model becomes while it trains, on one fixed batch.

The batch is the beginning of the run's own data, in rows of its length at most, of about TOKENS
tokens and at least twice as many as a rank needs. It is the same whenever the run goes on.
"""

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from eval.diagnostics import panel
from eval.diagnostics.layers import no_moments
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from training.configs import TrainConfig
from training.data.batches import Batches
from training.data.documents import Mixture
from training.inputs import Feed
from training.launch import own_rows

TOKENS = 4096
ROWS = 16  # whose gradients are compared; of each device one at least
PREFIX = "diagnostics/"


class Diagnostics:
    """What is measured every few steps, with the batch and the program for it."""

    def __init__(
        self,
        config: TrainConfig,
        graphdef: nnx.GraphDef[Griffin],
        mixture: Mixture,
        mesh: Mesh | None,
    ) -> None:
        self._config = config.model
        self._batch = fixed_batch(config, mixture, mesh)
        parts = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        rows = min(self._batch.tokens_BT.shape[0], max(ROWS, parts)) // parts
        read = panel.reader(graphdef, mesh=mesh, rows=rows)
        layers = range(self._config.num_layers)

        def run(params: Any, frozen: Any, batch: Batch) -> Any:
            moments, products_RR = read(params, frozen, no_moments(self._config), batch)
            assert products_RR is not None
            scalars = panel.of_moments(moments, layers) | panel.of_gradients(products_RR)
            return scalars, panel.weight_norms(params)

        self._run = jax.jit(run)

    def __call__(
        self, params: Any, frozen: tuple[Any, ...], updates: dict[str, jax.Array]
    ) -> dict[str, float]:
        """Numbers by name, for a record. updates: panel.update_ratios of the last step."""
        scalars, norms = self._run(params, *(frozen or ((),)), self._batch)
        numbers = (
            panel.as_numbers(scalars)
            | panel.by_name(self._config, "weight_norm", norms)
            | panel.by_name(self._config, "update_ratio", updates)
        )
        return {PREFIX + name: value for name, value in numbers.items()}


def fixed_batch(config: TrainConfig, mixture: Mixture, mesh: Mesh | None) -> Batch:
    """The first rows of the run's data, laid over the mesh."""
    rows, length = shape(config, mesh)
    own = own_rows(mesh, rows)
    batches = Batches(
        mixture, batch_size=rows, row_length=length, seed=config.seed, rows=own, prefetch=1
    )
    batch = next(Feed(batches, mesh, batch_size=rows, rows=own))
    batches.close()
    return batch


def shape(config: TrainConfig, mesh: Mesh | None) -> tuple[int, int]:
    """Rows and tokens a row: ROWS of them or more, which the mesh divides."""
    sizes = {"data": 1, "fsdp": 1, "sequence": 1} if mesh is None else mesh.shape
    tokens = max(TOKENS, 2 * config.model.width)
    length = min(config.sequence_length, _multiple(tokens // ROWS, sizes["sequence"]))
    return _multiple(-(-tokens // length), sizes["data"] * sizes["fsdp"]), length


def _multiple(number: int, of: int) -> int:
    """The next multiple."""
    return -(-number // of) * of
