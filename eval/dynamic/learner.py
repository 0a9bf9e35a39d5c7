# SPDX-License-Identifier: Apache-2.0
"""A model that learns while it scores: its streams, and the compiled step that moves them on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from checkpoints.checksums import leaves
from eval.dynamic import step
from eval.dynamic.config import DynamicConfig
from eval.dynamic.limits import check_lengths
from eval.dynamic.optimizers import anchored, make_tx
from eval.dynamic.parameters import split
from eval.dynamic.segments import Replayed, Segment
from eval.dynamic.statistics import Statistics
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.params import Flat, from_flat_params


class LossNotFinite(UserError):
    """A loss was infinite or not a number."""


class Learner:
    """S streams of one model under the same choices.

    tx: any transformation of optax, in place of choices.optimizer.algorithm.
    mesh: streams are divided over its devices; S is then a multiple of their number.
    Raises UserError: choices that do not fit the model; statistics that are missing, or another
    model's; a tx that is none.
    """

    def __init__(
        self,
        lm: LanguageModel,
        choices: DynamicConfig,
        *,
        statistics: Statistics | None = None,
        tx: optax.GradientTransformation | None = None,
        count: int = 1,
        mesh: Mesh | None = None,
    ):
        if tx is not None and not isinstance(tx, optax.GradientTransformation):
            raise UserError(f"tx={tx!r}: expected a transformation such as optax.lion(1e-5)")
        if tx is not None and not choices.learns:
            raise UserError("an optimizer has no effect with optimizer.algorithm=none")
        check_lengths(lm, choices)
        self.lm, self.choices = lm, choices
        self.split = split(lm, choices)
        self.mesh = _of_streams(mesh)
        mean_square, segments = None, 1
        if statistics is not None:
            statistics.check(lm, choices)
            mean_square, segments = statistics.mean_square, statistics.segments
        program = choices.program()
        self.tx = make_tx(program.optimizer, tx)
        self.anchor = anchored(self.split.pretrained, choices, mean_square, segments)
        self._step = step.make_step(self.split.form, program, self.tx, self.mesh)
        self._restart = step.make_restart(self.tx)
        self.begin(count)

    def begin(self, count: int) -> None:
        """So many streams that have read nothing, in place of those there are."""
        if self.mesh is not None and count % self.mesh.size:
            raise UserError(
                f"{count} streams cannot be divided over {self.mesh.size} devices: choose a "
                f"multiple of {self.mesh.size}"
            )
        self.streams = self._placed(step.start(self.split, self.choices, self.tx, count))

    @property
    def count(self) -> int:
        return len(self.streams.version)

    def step(self, segment: Segment, replayed: Replayed | None) -> step.Scored:
        """Score a segment of each stream and learn from it, without waiting for it."""
        given = self._placed((segment, replayed))
        self.streams, scored = self._step(self.streams, self.split.frozen, self.anchor, *given)
        return scored

    def restart(self, starts_S: np.ndarray) -> None:
        """These streams begin again with the checkpoint's parameters."""
        self.streams = self._restart(self.streams, self.split.pretrained, self._placed(starts_S))

    def resume(self) -> None:
        """Streams that have stopped learn again."""
        stopped = jnp.zeros_like(self.streams.stopped)
        self.streams = self.streams._replace(stopped=stopped)

    def keep(self, rows: list[int]) -> None:
        """Go on with these streams only."""
        index = np.array(rows)
        self.streams = self._placed(jax.tree.map(lambda x: x[index], self.streams))

    def adapted(self, row: int) -> Flat:
        """A stream's adapted parameters, by canonical name."""
        return {name: x[row] for name, x in self.streams.adapted.items()}

    def flat(self, row: int) -> Flat:
        """All parameters of a stream by canonical name; adapters are added to their weights."""
        return self.split.flat(self.adapted(row))

    def model(self, row: int):
        """The model with a stream's parameters."""
        return from_flat_params(self.split.form.config, self.flat(row))

    def arrays(self) -> dict[str, np.ndarray]:
        """All that the streams hold, by name."""
        return {name: np.asarray(x) for name, x in leaves(jax.device_get(self.streams)).items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """The streams that `arrays` was taken of. Raises UserError: it is of another optimizer."""
        self.begin(len(arrays["version"]))
        fresh = leaves(self.streams)
        if {name: x.shape for name, x in fresh.items()} != {
            name: x.shape for name, x in arrays.items()
        }:
            raise UserError("its arrays are of another optimizer than this one")
        tree = jax.tree.structure(self.streams)
        self.streams = self._placed(jax.tree.unflatten(tree, [arrays[name] for name in fresh]))

    def _placed(self, tree: Any) -> Any:
        return step.placed(self.mesh, tree)


def _of_streams(mesh: Mesh | None) -> Mesh | None:
    """The devices of a mesh along one axis, of streams."""
    if mesh is None or mesh.size == 1:
        return None
    if mesh.size != mesh.shape["data"]:
        sizes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        raise UserError(
            f"mesh {sizes}: dynamic evaluation divides streams over data and nothing else; set "
            "mesh.data to the number of devices"
        )
    return Mesh(mesh.devices.reshape(-1), ("streams",))
