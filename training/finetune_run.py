# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning run, from its base to its last step; started again, it goes on where it stopped."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from checkpoints import store
from checkpoints.load import load_checkpoint
from eval.perplexity import score_documents
from recurrentgemma import sharding
from recurrentgemma.griffin import Griffin, from_flat_params
from recurrentgemma.sharded import place
from recurrentgemma.tokenizer import Tokenizer
from training import lora as adapters
from training import run
from training.configs import TrainConfig, differences
from training.data import Batch, Batches
from training.data_config import DataConfig, held_out, open_mixture
from training.finetune import Base, to_json
from training.lora import LoraConfig
from training.optim import make_optimizer
from training.step import TrainState, fresh_carried, init_train_state, make_train_step

ADAPTERS = "adapter"  # the folder of a run where its adapters end, as PEFT keeps them


def start(
    config: TrainConfig,
    run_dir: Path,
    *,
    base: Base,
    lora: LoraConfig | None,
    data: DataConfig,
    mesh: Mesh | None = None,
) -> float:
    """Train to the last step, and give the loss of the last one.

    Raises:
      ValueError: the run directory holds another run, or the mesh does not divide model or batch.
    """
    train = {**config.to_json(), **to_json(base, lora), "data": data.to_json()}
    _open(run_dir, config, train)
    base.tokenizer.save(run_dir)
    model, _, _ = load_checkpoint(base.path, config.model)
    graphdef, params, frozen = _parts(model, lora, config.seed, mesh)
    del model
    mixture = open_mixture(data, base.tokenizer, vocab_size=config.model.vocab_size)
    batches = Batches(
        mixture,
        batch_size=config.batch_size,
        row_length=config.row_length,
        seed=config.seed,
        long_documents=data.long_documents,
        threads=data.threads,
    )
    tx = make_optimizer(config.optimizer, steps=config.steps)
    carried = None
    if data.long_documents == "carry":
        carried = fresh_carried(config.model, config.batch_size, mesh)
    state = init_train_state(params, tx, mesh, carried=carried)
    train_step = make_train_step(graphdef, tx, mesh=mesh, z_loss=config.z_loss)
    loss = float("nan")
    with run.open_checkpoints(run_dir, config) as checkpoints:
        restored = run.restore(
            checkpoints, batches, config=config.model, fresh=_stored(state), mesh=mesh
        )
        if restored is not None:
            stored: Any = restored.opt_state
            opt_state, carried = stored
            places = jax.tree.map(lambda x: x.sharding, state.carried)
            carried = jax.device_put(carried, places)
            state = restored._replace(opt_state=opt_state, carried=carried)
        for step in range(int(state.step) + 1, config.steps + 1):
            batch = next(batches)
            if mesh is not None:
                batch = Batch(*place(mesh, sharding.BATCH, *batch))
            state, metrics = train_step(state, batch, frozen)
            last = step == config.steps
            if last or step % config.log_every == 0:
                loss = float(metrics["loss"])
                print(f"step {step} of {config.steps}: loss {loss:.4f} nats per answer token")
            if last or step % config.save_every == 0:
                run.save(checkpoints, _stored(state), batches, config=config.model, mesh=mesh)
    batches.close()
    _finish(run_dir, graphdef, state, frozen, config, base, lora, data)
    return loss


def _stored(state: TrainState) -> TrainState:
    """As checkpoints hold it: the state of conversations under way beside the optimizer's."""
    return state._replace(opt_state=(state.opt_state, state.carried), carried=None)


def _open(run_dir: Path, config: TrainConfig, train: dict[str, Any]) -> None:
    if not (run_dir / store.CONFIG).exists():
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise ValueError(f"{run_dir} exists and is not a run; choose another --run-dir")
        store.write_run_config(run_dir, config.model, train)
        return
    model, saved = store.read_run_config(run_dir)
    asked = {**train, "model": config.model.to_json()}
    if lines := differences({**saved, "model": model.to_json()}, asked):
        raise ValueError(
            f"{run_dir} holds a run with another config (saved -> asked): {'; '.join(lines)}. "
            f"Ask for the saved values to go on with it, or choose another --run-dir"
        )


def _parts(model: Griffin, lora: LoraConfig | None, seed: int, mesh: Mesh | None) -> tuple:
    """(structure, what is trained, what is not), on the mesh if there is one."""
    if mesh is not None:
        sharding.check_model(model.config, mesh.shape)
        graphdef, params = nnx.split(model)
        params = jax.device_put(params, sharding.shardings(mesh, params))
        model = nnx.merge(graphdef, params)
    if lora is None:
        return *nnx.split(model, nnx.Param), ()
    return adapters.split(adapters.adapt(model, lora, seed=seed, mesh=mesh))


def _finish(
    run_dir: Path,
    graphdef: nnx.GraphDef[Griffin],
    state: TrainState,
    frozen: Any,
    config: TrainConfig,
    base: Base,
    lora: LoraConfig | None,
    data: DataConfig,
) -> None:
    """Write the adapters for PEFT, and score what was held out."""
    model = nnx.merge(graphdef, state.params, *([frozen] if lora else []))
    if lora is not None and not (run_dir / ADAPTERS).exists():
        adapters.save(run_dir / ADAPTERS, model, lora, base=base.path)
    if data.eval_sources:
        if lora is not None:
            unrolled = dataclasses.replace(config.model, scan_layers=False)
            model = from_flat_params(unrolled, adapters.merge_into(model, lora))
        print(f"held-out answers: {_held_out(model, base.tokenizer, data):.4f} bits per byte")


def _held_out(model: Griffin, tokenizer: Tokenizer, data: DataConfig) -> float:
    documents = list(held_out(data, tokenizer, vocab_size=model.config.vocab_size))
    ids = [document.ids for document in documents]
    return score_documents(model, ids, sum(d.bytes for d in documents)).bits_per_byte
