# SPDX-License-Identifier: Apache-2.0
"""A run on disk: its config, its tokenizer and its train state, each written once and read back
exactly.

    runs/NAME/config.json          {"model": ..., "train": TrainConfig}
    runs/NAME/tokenizer.model      or another tokenizer file
    runs/NAME/metrics.jsonl        see metrics.py
    runs/NAME/checkpoints/STEP/    see checkpoints/store.py

The optimizer's moments are stored by canonical parameter name like the parameters themselves, so a
run may go on with its layers scanned or unrolled, and on any mesh.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from checkpoints import store
from checkpoints.orbax_tree import flatten, nest
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.sharded import place
from recurrentgemma.tokenizer import (
    ByteTokenizer,
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    train_sentencepiece,
)
from training import per_layer
from training.configs import TrainConfig, differences
from training.corpus import Document
from training.data import Batches
from training.step import TrainState

METRICS = "metrics.jsonl"
HELD_OUT = "held_out_bits_per_byte"


def open_run(run_dir: Path, config: TrainConfig) -> int:
    """Start the run, or check that the one that is there has this config. Returns its newest step,
    0 if none.

    Raises ValueError: the directory holds something else, or a run whose config differs; it says
    where.
    """
    if not (run_dir / store.CONFIG).exists():
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise ValueError(f"{run_dir} exists and is not a run; choose another --run-dir")
        store.write_run_config(run_dir, config.model, config.to_json())
        return 0
    model, saved = store.read_run_config(run_dir)
    asked = {**config.to_json(), "model": config.model.to_json()}
    if lines := differences({**saved, "model": model.to_json()}, asked):
        raise ValueError(
            f"{run_dir} holds a run with another config (saved -> asked): {'; '.join(lines)}. "
            f"Ask for the saved values to go on with it, or choose another --run-dir"
        )
    return store.latest_step(run_dir) or 0


def run_tokenizer(run_dir: Path, config: TrainConfig, documents: Sequence[Document]) -> Tokenizer:
    """The run's tokenizer; at first the one that config.tokenizer says, which is then saved with
    the run.

    Raises ValueError if it has more ids than the model has embeddings.
    """
    tokenizer = find_tokenizer(run_dir)
    if tokenizer is None:
        if config.tokenizer == "bytes":
            tokenizer = ByteTokenizer()
        elif config.tokenizer == "sentencepiece":
            texts = (document.text for document in documents)
            tokenizer = train_sentencepiece(texts, config.model.vocab_size)
        else:
            tokenizer = load_tokenizer(config.tokenizer)
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ValueError(
                f"model.vocab_size={config.model.vocab_size} is too small for the tokenizer "
                f"{config.tokenizer!r}, which has {tokenizer.vocab_size} ids; choose at least that"
            )
        tokenizer.save(run_dir)
    return tokenizer


def open_checkpoints(run_dir: Path, config: TrainConfig) -> store.Checkpoints:
    """The run's checkpoints to write to: the newest are kept, and the best by HELD_OUT."""
    return store.Checkpoints(run_dir, keep=config.keep, best=HELD_OUT)


def save(
    checkpoints: store.Checkpoints,
    train_state: TrainState,
    batches: Batches,
    *,
    config: GriffinConfig,
    mesh: Mesh | None = None,
    held_out: float | None = None,
) -> None:
    """Begin to write a checkpoint that `restore` goes on from exactly; the train state may be
    donated when this returns. held_out ranks it among the others.

    Scanned layers are taken apart on the devices: the state a second time, for that moment.

    Raises OSError: there is no space for it, or the checkpoint before could not be written.
    """
    params, opt_state = per_layer.apart((train_state.params, train_state.opt_state), config, mesh)
    checkpoints.save(
        int(train_state.step),
        flatten(params),
        opt_state=opt_state,
        data_state={"batches": batches.state(), "skipped": int(train_state.skipped)},
        metrics={} if held_out is None else {HELD_OUT: held_out},
    )


def restore(
    checkpoints: store.Checkpoints,
    batches: Batches,
    *,
    config: GriffinConfig,
    fresh: TrainState,
    mesh: Mesh | None = None,
    step: int | None = None,
) -> TrainState | None:
    """The train state of a step, by default the newest that is whole; None before the first.

    It is structured like `fresh`, which may hold jax.ShapeDtypeStructs, and lies on the mesh as
    sharding.shardings says, without one on the default device. `batches` goes on where it was.

    Raises ValueError: the checkpoint is damaged, or the training data has changed since.
    """
    wanted = (fresh.params, fresh.opt_state)
    like = jax.eval_shape(lambda tree: per_layer.apart(tree, config), wanted)
    if mesh is not None:
        like = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            like,
            sharding.shardings(mesh, like),
        )
    found = checkpoints.restore(step, params_like=flatten(like[0]), opt_state_like=like[1])
    if found is None:
        return None
    if found.data_state is None:
        raise ValueError(f"step {found.step} does not say where its data goes on")
    batches.restore(found.data_state["batches"])
    stored = (nest(found.params), found.opt_state)
    params, opt_state = per_layer.together(stored, wanted, config, mesh)
    scalars: tuple = (np.int32(found.step), np.int32(found.data_state["skipped"]))
    step_now, skipped = jax.device_put(scalars) if mesh is None else place(mesh, P(), *scalars)
    return TrainState(step_now, params, opt_state, skipped)
