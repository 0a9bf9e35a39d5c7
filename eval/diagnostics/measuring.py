# SPDX-License-Identifier: Apache-2.0
"""The parts of `griffin eval diagnostics`: layers and gradients, weights, probe, curvature. Each
gives numbers and lists of them, as JSON has them."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from eval.diagnostics import panel
from eval.diagnostics.curvature import density, difference_product, hessian_spectrum
from eval.diagnostics.griffin_probe import ProbeOptimizer, float32, learner, random_tokens
from eval.diagnostics.layers import no_moments
from eval.diagnostics.representation import check_rows
from eval.diagnostics.rows import first_rows
from eval.documents import Documents
from eval.progress_bar import progress_bar
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.sharded import place
from recurrentgemma.sharding import BATCH

if TYPE_CHECKING:
    from eval.diagnostics.diagnostics_cli import DiagnosticsArguments

Part = Callable[[], dict[str, Any]]
POINTS = 200  # of the plotted density
SMOOTHING = 0.01  # of the density, times the range of eigenvalues


class Measuring:
    """One model on the first rows of documents (`data`, and perhaps `probe`).

    Raises UserError: fewer tokens than a rank needs, a layer that is not there, rows longer than
    global attention holds, no two rows for the probe or whose gradients could be compared.
    """

    def __init__(
        self,
        arguments: "DiagnosticsArguments",
        lm: LanguageModel,
        model: Griffin,
        documents: Mapping[str, Documents],
        mesh: Mesh | None,
    ) -> None:
        self._arguments, self._lm, self._mesh = arguments, lm, mesh
        self._graphdef, self._params = nnx.split(model, nnx.Param)
        config, length = lm.config, arguments.sequence_length
        check_length(config, "--sequence-length", length)
        check_length(config, "--probe.length", arguments.probe.length)
        self.layers = arguments.layers or tuple(range(config.num_layers))
        panel.chosen(jax.eval_shape(lambda: no_moments(config)), self.layers)
        self._rows = first_rows(documents["data"], tokens=arguments.tokens, length=length)
        real = int((np.asarray(self._rows.positions_BT) >= 0).sum())
        try:
            check_rows(real, config.width)
        except UserError as error:
            raise UserError(f"--tokens {arguments.tokens}, of --data {real:,}: {error}") from None
        count = self._rows.tokens_BT.shape[0]
        self._compared = min(arguments.gradients, count)
        if self._compared == 1:
            raise UserError(
                f"--gradients {arguments.gradients}: --data gives 1 row of {length} tokens, and "
                "gradients are compared in pairs; give more --tokens, a shorter --sequence-length, "
                "or --gradients 0"
            )
        self.optimizer = optimizer_of(arguments.path, arguments.probe.learning_rate)
        self._probed = self._scored = self._rows
        if arguments.probe.steps:
            self._probed, self._scored = self._probe_rows(documents)

    def parts(self) -> dict[str, Part]:
        """What is to be measured, by name."""
        parts: dict[str, Part] = {"layers": self._read, "weights": self._weights}
        if self._arguments.probe.steps:
            parts["probe"] = self._probe
        if self._arguments.curvature.iterations:
            parts["curvature"] = self._curvature
        return parts

    def _read(self) -> dict[str, Any]:
        arguments, config = self._arguments, self._lm.config
        mesh, batch_size, parts = self._mesh, arguments.batch_size, 1
        if mesh is not None:
            parts = mesh.shape["data"] * mesh.shape["fsdp"]
            batch_size = -(-batch_size // parts) * parts
        rows = -(-self._compared // parts)  # of each device
        batches = cut(self._rows, batch_size, first=rows * parts)
        sizes = [batch.tokens_BT.size for batch in batches]
        read = jax.jit(panel.reader(self._graphdef, mesh=mesh, rows=0), donate_argnums=2)
        first = jax.jit(panel.reader(self._graphdef, mesh=mesh, rows=rows))
        moments, products_RR = no_moments(config), None
        with progress_bar("reading", sum(sizes)) as bar:
            for number, batch in enumerate(batches):
                if mesh is not None:
                    batch = Batch(*place(mesh, BATCH, *batch))
                if number == 0:
                    moments, products_RR = first(self._params, (), moments, batch)
                else:
                    moments, _ = read(self._params, (), moments, batch)
                bar.update(sum(sizes[: number + 1]))
        layers = self.layers
        run = jax.jit(lambda moments: panel.of_moments(panel.chosen(moments, layers), layers))
        numbers = panel.as_numbers(run(moments))
        if products_RR is not None:
            products_RR = products_RR[: self._compared, : self._compared]  # no rows of padding
            numbers |= panel.as_numbers(jax.jit(panel.of_gradients)(products_RR))
            numbers["gradients/rows"] = products_RR.shape[0]
        return {"tokens": int(moments.final.count), "numbers": numbers}

    def _weights(self) -> dict[str, Any]:
        config = self._lm.config
        norms = jax.jit(panel.weight_norms)(self._params)
        left_out = tuple(
            f"weight_norm/blocks.{layer}/"
            for layer in range(config.num_layers)
            if layer not in self.layers
        )
        named = panel.by_name(config, "weight_norm", norms).items()
        return {"numbers": {n: value for n, value in named if not n.startswith(left_out)}}

    def _probe(self) -> dict[str, Any]:
        options, config = self._arguments.probe, self._lm.config
        graphdef, params = self._on_one_device()
        learn = learner(
            graphdef,
            self.optimizer.make(),
            steps=options.steps,
            batch_size=options.batch_size,
        )
        keys = jax.random.split(jax.random.key(options.seed), 2)
        rows, scored = self._probed, self._scored
        if not options.data:
            rows = scored = random_tokens(rows, config.vocab_size, keys[0])
        loss, losses_K = jax.device_get(learn(params, rows, scored, keys[1]))
        fresh_config = dataclasses.replace(config, param_dtype="float32")
        fresh = nnx.state(Griffin(fresh_config, rngs=nnx.Rngs(options.seed)), nnx.Param)
        fresh = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(fresh))
        fresh_loss, fresh_losses_K = jax.device_get(learn(fresh, rows, scored, keys[1]))
        return {
            "rows": rows.tokens_BT.shape[0],
            "loss": float(loss),
            "fresh_loss": float(fresh_loss),
            "lost": float(loss - fresh_loss),
            "losses": losses_K.tolist(),
            "fresh_losses": fresh_losses_K.tolist(),
        }

    def _curvature(self) -> dict[str, Any]:
        options = self._arguments.curvature
        graphdef, params = self._on_one_device()
        batch = cut(self._rows, options.rows)[0]

        @jax.jit
        def run(params: Any, batch: Batch) -> Any:
            def loss(params: Any) -> jax.Array:
                return next_token_loss(nnx.merge(graphdef, params), batch)[0]

            product = difference_product(loss, params)
            spectrum = hessian_spectrum(
                product,
                params,
                jax.random.key(0),
                iterations=options.iterations,
                vectors=options.vectors,
            )
            span = spectrum.top - spectrum.bottom
            at_G = spectrum.bottom + span * jax.numpy.linspace(-0.05, 1.05, POINTS)
            density_G = density(spectrum, at_G, SMOOTHING * span)
            return {"top": spectrum.top, "bottom": spectrum.bottom}, at_G, density_G

        ends, at_G, density_G = jax.device_get(run(params, batch))
        numbers = {name: float(value) for name, value in ends.items()}
        return numbers | {"at": at_G.tolist(), "density": density_G.tolist()}

    def _on_one_device(self) -> tuple[nnx.GraphDef[Griffin], Any]:
        graphdef, params = nnx.split(self._lm.model, nnx.Param)
        return graphdef, float32(params)

    def _probe_rows(self, documents: Mapping[str, Documents]) -> tuple[Batch, Batch]:
        """Rows to learn, and to be scored on."""
        options = self._arguments.probe
        source = documents.get("probe", documents["data"])
        rows = options.rows * (2 if options.data else 1)
        batch = first_rows(source, tokens=rows * options.length, length=options.length)
        if not options.data:
            return batch, batch
        if batch.tokens_BT.shape[0] < 2:
            raise UserError(
                f"--probe.data has 1 row of {options.length} tokens, and half of its rows are "
                "learned, the others scored: give more text, or a shorter --probe.length"
            )
        learned, scored = (Batch(*(x[part::2] for x in batch)) for part in (0, 1))
        return learned, scored


def check_length(config: GriffinConfig, option: str, length: int) -> None:
    """Raises UserError: a model with global attention does not hold so long a row."""
    if "global_attention" in config.block_types and length > config.context_length:
        raise UserError(
            f"{option} {length}: this model's global attention holds context_length="
            f"{config.context_length} tokens; give at most that"
        )


def cut(rows: Batch, batch_size: int, *, first: int = 0) -> list[Batch]:
    """Batches of that many rows, before them one of `first` rows, if that is not 0; rows of padding
    fill the first one and the last."""
    if first:
        head, others = Batch(*(x[:first] for x in rows)), Batch(*(x[first:] for x in rows))
        return cut(head, first) + cut(others, batch_size)
    count = rows.tokens_BT.shape[0]
    fill = ((0, -count % batch_size), (0, 0))
    arrays = [
        np.pad(np.asarray(x), fill, constant_values=outside)
        for x, outside in zip(rows, (0, 0, 0, -1), strict=True)
    ]
    starts = range(0, count, batch_size)
    return [Batch(*(x[start : start + batch_size] for x in arrays)) for start in starts]  # type: ignore[arg-type]


def optimizer_of(path: str, learning_rate: float) -> ProbeOptimizer:
    """The optimizer of the run at a path, at a given learning rate if that is above 0."""
    optimizer = ProbeOptimizer()
    config = Path(path) / "config.json"
    if config.is_file():
        saved = json.loads(config.read_text("utf-8")).get("train", {}).get("optimizer", {})
        known = {name: float(saved[name]) for name in optimizer._fields if name in saved}
        optimizer = optimizer._replace(**known)
    return optimizer._replace(learning_rate=learning_rate or optimizer.learning_rate)
