# SPDX-License-Identifier: Apache-2.0
"""The diagonal Fisher information of a language model on text: how much its next tokens hang on
each parameter.

    F_i = mean over tokens t of E_a~p(. | before t) (d log p(a | before t) / d theta_i)^2

With tokens a_t drawn from the model after each prefix of the text, the gradients of two tokens are
uncorrelated and of mean zero, so the square of their sum over a row is, on average, the sum of
their squares: one backward pass a row, and no error but that of drawing. On several devices the
same holds for the rows of one pass. "empirical" takes the text's own tokens for a_t, for which it
holds of rows alone (they get random signs), not of tokens.

What is estimated lies in the run's folder `fisher`, by parameter, beside what it is of.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from checkpoints.model_json import read_json
from checkpoints.shapes import MAY_DIFFER
from recurrentgemma import losses, parallel, sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.head import capped_logits
from recurrentgemma.losses import Batch
from recurrentgemma.sharded import on_mesh
from training import per_layer, run_folder

FOLDER = "fisher"
Chosen = Callable[[tuple, Any], bool]  # of a parameter's path and value: whether it has one


def estimate(
    model: Griffin,
    batches: Iterator[Batch],
    *,
    count: int,
    kind: Literal["true", "empirical"] = "true",
    seed: int = 0,
    mesh: Mesh | None = None,
    chosen: Chosen | None = None,
    shown: Callable[[int], None] = lambda done: None,
) -> nnx.State:
    """F of the chosen parameters (None: of all), float32, from `count` batches: one backward pass
    each, of as many rows as the mesh divides."""
    graphdef, wanted, others = nnx.split(model, chosen or nnx.Param, ...)

    def squares(wanted: Any, others: Any, batch: Batch, number: jax.Array) -> Any:
        def summed(wanted: Any) -> jax.Array:
            model = nnx.merge(graphdef, wanted, others)
            x_BTD, _ = model.hidden(batch.tokens_BT, positions=batch.positions_BT)
            key = jax.random.fold_in(jax.random.key(seed), number)
            targets_BT, weights_BT = batch.targets_BT, batch.weights_BT
            if kind == "true":
                targets_BT = _draw(model, jax.lax.stop_gradient(x_BTD), key)
            else:
                rows = _first_row(len(weights_BT)) + jnp.arange(len(weights_BT))
                keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
                signs = jax.vmap(lambda one: jax.random.rademacher(one, (), jnp.float32))(keys)
                weights_BT = weights_BT * signs[:, None]
            loss, _, _ = losses.hidden_loss(model, x_BTD, targets_BT, weights_BT)
            return parallel.all_reduce(loss, *sharding.TOKEN_AXES)

        return jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)), jax.grad(summed)(wanted))

    run = squares
    if mesh is not None:
        specs = sharding.specs(wanted)
        reads = (specs, sharding.specs(others), sharding.BATCH, jax.sharding.PartitionSpec())
        run = on_mesh(mesh, squares, reads, specs)

    def add(sums: Any, wanted: Any, others: Any, batch: Batch, number: jax.Array) -> Any:
        return jax.tree.map(jnp.add, sums, run(wanted, others, batch, number))

    step = jax.jit(add, donate_argnums=0)
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), wanted)
    if mesh is not None:
        sums = jax.device_put(sums, sharding.shardings(mesh, sums))
    tokens = jnp.zeros(())
    for number in range(count):
        batch = next(batches)
        sums = step(sums, wanted, others, batch, jnp.int32(number))
        tokens += jnp.sum(batch.weights_BT)
        shown(number + 1)
    if float(tokens) == 0:
        raise UserError("retain.data: there are no tokens to estimate Fisher information on")
    return jax.tree.map(lambda x: x / tokens, sums)


def _first_row(rows: int) -> jax.Array | int:
    """Number in the whole batch of this device's first row."""
    axes = parallel.divided("data", "fsdp")
    return jax.lax.axis_index(axes) * rows if axes else 0


def _draw(model: Griffin, x_BTD: jax.Array, key: jax.Array) -> jax.Array:
    """A next token after each one, as the model has it, [B, T]; the same on every mesh."""
    batch, time, width = x_BTD.shape
    length = time * parallel.size("sequence")
    row_B1 = _first_row(batch) + jnp.arange(batch)[:, None]
    column_1T = parallel.first_token(time) + jnp.arange(time)[None]
    number_BT = row_B1 * length + column_1T
    table_VD = model.embedder.table(x_BTD.dtype)
    cap = model.config.logits_soft_cap

    def one(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_MD, number_M = chunk
        logits_MV = parallel.whole_vocabulary(capped_logits(x_MD, table_VD, cap))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, number_M)
        return jax.vmap(jax.random.categorical)(keys, logits_MV).astype(jnp.int32)

    tokens = batch * time
    size = losses.chunk_tokens(tokens, model.config.vocab_size)
    parts = losses.chunks(tokens, size, x_BTD.reshape(-1, width), number_BT.reshape(-1))
    return jax.lax.map(one, parts).reshape(-1)[:tokens].reshape(batch, time)


def save(folder: Path, fisher: nnx.State, config: GriffinConfig, **of: Any) -> None:
    """Write F, and what it is of: the model's config, and more by name."""
    run_folder.begin_run(folder, {"fisher": {**of, "model": config.to_json()}})
    with run_folder.open_checkpoints(folder, keep=1) as checkpoints:
        flat = per_layer.unstacked(fisher, config)
        run_folder.save(checkpoints, 1, flat)


def load(folder: Path, like: nnx.State, config: GriffinConfig, mesh: Mesh | None) -> nnx.State:
    """F as `save` wrote it, structured like `like` and placed on the mesh.

    Raises UserError: there is none, or it is of another model or of other parameters.
    """
    path = folder / run_folder.CONFIG
    of = read_json(path).get("fisher") if path.is_file() else None
    if not isinstance(of, dict) or not isinstance(of.get("model"), dict):
        raise UserError(
            f"{folder}: no Fisher information lies there; expected the folder `{FOLDER}` of a run "
            "with retain.method=ewc"
        )
    stored = GriffinConfig.from_json(of["model"])
    for name, value in config.to_json().items():
        if name not in MAY_DIFFER and (was := stored.to_json()[name]) != value:
            raise UserError(
                f"{folder} is of another model: {name}={json.dumps(was)}, and this one has "
                f"{json.dumps(value)}; estimate it anew (leave retain.fisher_from out)"
            )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), like)
    flat = jax.eval_shape(lambda tree: per_layer.unstacked(tree, config), shapes)
    if mesh is not None:
        flat = {
            name: jax.ShapeDtypeStruct(
                x.shape,
                x.dtype,
                sharding=NamedSharding(mesh, sharding.param_spec(name, len(x.shape))),
            )
            for name, x in flat.items()
        }
    with run_folder.open_checkpoints(folder, keep=1) as checkpoints:
        saved = run_folder.restore(checkpoints, flat)
    if saved is None:
        raise UserError(f"{folder}: its estimation was stopped before its end")
    return per_layer.stacked(saved.tree, shapes, config, mesh)
