# SPDX-License-Identifier: Apache-2.0
"""A run on disk: its config, its tokenizer and its train state, each written once and read back
exactly.

    runs/NAME/config.json          {"model": ..., "train": TrainConfig}
    runs/NAME/tokenizer.model      or another tokenizer file
    runs/NAME/metrics.jsonl        see metrics.py
    runs/NAME/checkpoints/STEP/    see checkpoints/store.py

The optimizer's moments are stored by canonical parameter name like the parameters themselves, so a
run may go on with its layers scanned or unrolled.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from checkpoints import store
from checkpoints.orbax_tree import flatten, nest
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin, flat_params, from_flat_params
from recurrentgemma.tokenizer import (
    ByteTokenizer,
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    train_sentencepiece,
)
from training.configs import TrainConfig, differences
from training.corpus import Document
from training.data import Batches
from training.step import TrainState

METRICS = "metrics.jsonl"


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


def save(
    run_dir: Path,
    train_state: TrainState,
    batches: Batches,
    *,
    graphdef: nnx.GraphDef[Griffin],
    keep: int,
) -> None:
    """Write a checkpoint that `restore` goes on from exactly."""
    params, opt_state = _flat((train_state.params, train_state.opt_state), graphdef)
    store.save(
        run_dir,
        int(train_state.step),
        flatten(params),
        opt_state=opt_state,
        data_state={"batches": batches.state(), "skipped": int(train_state.skipped)},
        keep=keep,
    )


def restore(
    run_dir: Path,
    step: int,
    batches: Batches,
    *,
    graphdef: nnx.GraphDef[Griffin],
    config: GriffinConfig,
    fresh: TrainState,
) -> TrainState:
    """The train state saved at `step`, structured like `fresh`; `batches` goes on where it was.

    Raises ValueError: the checkpoint is damaged, or the training data has changed since.
    """
    like = jax.eval_shape(lambda opt_state: _flat(opt_state, graphdef), fresh.opt_state)
    saved = store.restore(run_dir, step, opt_state_like=like)
    assert saved.data_state is not None
    batches.restore(saved.data_state["batches"])

    def unflat(nested: Any) -> Any:
        if not isinstance(nested, dict):
            return nested
        return nnx.split(from_flat_params(config, flatten(nested)), nnx.Param)[1]

    return TrainState(
        jnp.int32(step),
        unflat(nest(saved.params)),
        jax.tree.map(unflat, saved.opt_state, is_leaf=lambda x: isinstance(x, dict)),
        jnp.int32(saved.data_state["skipped"]),
    )


def _flat(tree: Any, graphdef: nnx.GraphDef[Griffin]) -> Any:
    """The tree with each nnx.State of parameters or moments as nested dictionaries of canonical
    names."""

    def flat(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.State):
            return leaf
        return nest(flat_params(nnx.merge(graphdef, leaf)))

    return jax.tree.map(flat, tree, is_leaf=lambda x: isinstance(x, nnx.State))
