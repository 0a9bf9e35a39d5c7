# SPDX-License-Identifier: Apache-2.0
"""The run of a language model on disk: its config, its tokenizer and its train state, each written
once and read back exactly. What it shares with other runs is run_folder.py's.

    runs/NAME/config.json          {"model": ..., "train": TrainConfig}
    runs/NAME/tokenizer.model      or another tokenizer file
    runs/NAME/adapter/             of a run by LoRA, at its end; see checkpoints/adapters.py

The optimizer's moments are stored by canonical parameter name like the parameters themselves, so a
run may go on with its layers scanned or unrolled, and on any mesh.
"""

import base64
import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from checkpoints import adapters, processes, store
from checkpoints.load import open_adapters, open_checkpoint
from checkpoints.open_checkpoint import Damaged, OpenCheckpoint, read_params
from checkpoints.shapes import resolve_config
from checkpoints.step import DATA_STATE, read_content
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharded import place
from recurrentgemma.text.chat import GEMMA
from recurrentgemma.text.tokenizer import (
    FILES,
    Tokenizer,
    find_tokenizer,
    save_tokenizer,
    train_sentencepiece,
)
from training import other_steps, per_layer, run_folder
from training.configs import MAY_CHANGE_ON_RESUMING, TrainConfig
from training.data.batches import Batches, merge_states
from training.data.config import write_chats_by
from training.data.documents import load_named_tokenizer
from training.finetuning.preference_batches import PreferenceBatches
from training.optim import decay_start
from training.retention.objective import Carried
from training.step import TrainState

ADAPTERS = "adapter"  # the folder of a run where its adapters end
HELD_OUT = "held_out_bits_per_byte"
NO_TOKENIZER = (
    "there is no tokenizer: give --tokenizer the path of one (a file, or a folder with one, such "
    "as a checkpoint's), or `bytes`; token shards of `griffin data tokenize` bring their own"
)


def open_run(run_dir: Path, config: TrainConfig, report: Callable[[str], None] = print) -> int:
    """Check that the run that is there has this config, up to MAY_CHANGE_ON_RESUMING and, where the
    schedule allows it, its steps (other_steps.py): a change is reported and written down. Returns
    its newest step, 0 if there is none or no run yet.

    Raises UserError: the directory holds something else, or a run whose config differs; it says
    where.
    """

    def undo() -> None:
        if processes.is_first():
            other_steps.undo_unfinished(run_dir)

    processes.all_or_none(undo)
    return run_folder.open_run(
        run_dir,
        content(config),
        may_change=(*MAY_CHANGE_ON_RESUMING, "steps"),
        read=lambda path: content(read_config(path.parent)),
        unnamed="train",
        go_on="" if config.policy else f"griffin train --run-dir {shlex.quote(str(run_dir))}",
        prepare=lambda: other_steps.prepare(run_dir, read_config(run_dir), config, report),
        report=report,
    )


def content(config: TrainConfig) -> dict[str, Any]:
    """What config.json holds."""
    return {"model": config.model.to_json(), "train": config.to_json()}


def read_config(run_dir: Path) -> TrainConfig:
    """The config of a run of this version or an older one. Relative paths in it, as older versions
    wrote them, are taken from the working directory.

    Raises UserError: it is missing, not of a run of `griffin train`, or has an unknown field.
    """
    model, fields = store.read_run_config(run_dir)
    try:
        return TrainConfig.from_json(model, fields).with_absolute_paths()
    except UserError as error:
        raise UserError(f"{run_dir / store.CONFIG}: {error}") from None


def begin_run(run_dir: Path, config: TrainConfig, tokenizer: Tokenizer) -> None:
    """Write what a run lacks: config.json, which makes a directory a run, then the tokenizer."""
    run_folder.begin_run(run_dir, content(config))

    def write() -> None:
        if processes.is_first() and find_tokenizer(run_dir, config.model.vocab_size) is None:
            with tempfile.TemporaryDirectory(dir=run_dir) as scratch:  # its files whole, or none
                save_tokenizer(tokenizer, scratch)
                beside_first = sorted(Path(scratch).iterdir(), key=lambda file: file.name in FILES)
                for file in beside_first:
                    file.rename(run_dir / file.name)

    processes.all_or_none(write)


def keep_adapters(run_dir: Path, config: TrainConfig) -> None:
    """Write the adapters that a trained run ends with as PEFT keeps them, if it has any and they
    are not there."""
    if config.lora is None or (run_dir / ADAPTERS / adapters.CONFIG).exists():
        return
    if processes.is_first():
        adapters.write(run_dir / ADAPTERS, open_adapters(run_dir)[0])


def run_tokenizer(run_dir: Path, config: TrainConfig, texts: Iterable[str]) -> Tokenizer:
    """The run's tokenizer; before begin_run the one that config.tokenizer says. texts: what one is
    trained on.

    Raises UserError if it has more ids than the model has embeddings.
    """

    vocab_size = config.model.vocab_size

    def new_tokenizer() -> Tokenizer:
        if not config.tokenizer:
            raise UserError(NO_TOKENIZER)
        if config.tokenizer == "sentencepiece":
            return train_sentencepiece(texts, config.model.vocab_size)
        return load_named_tokenizer(config.tokenizer, vocab_size)

    with tempfile.TemporaryDirectory() as scratch:

        def files() -> str:  # the first process's, for all
            tokenizer = find_tokenizer(run_dir, vocab_size)
            template = config.data.chat_template
            if tokenizer is None:
                tokenizer = new_tokenizer()
                write_chats_by(tokenizer, template)
            elif template == GEMMA:  # an older run's tokenizer may have a template of its own
                write_chats_by(tokenizer, template)
            if tokenizer.vocab_size > config.model.vocab_size:
                raise UserError(
                    f"model.vocab_size={config.model.vocab_size} is too small for the tokenizer "
                    f"{config.tokenizer!r}, which has {tokenizer.vocab_size} ids; choose at least "
                    "that"
                )
            save_tokenizer(tokenizer, scratch)
            contents = {file.name: file.read_bytes() for file in Path(scratch).iterdir()}
            return json.dumps({n: base64.b64encode(raw).decode() for n, raw in contents.items()})

        for name, raw in json.loads(processes.broadcast_text(files)).items():
            (Path(scratch) / name).write_bytes(base64.b64decode(raw))
        tokenizer = find_tokenizer(scratch, vocab_size)
    assert tokenizer is not None
    return tokenizer


def open_start(config: TrainConfig) -> tuple[OpenCheckpoint, GriffinConfig]:
    """The checkpoint config.init_from, and the config to read it with.

    Raises UserError: there is no such checkpoint, or it is of another model.
    """
    checkpoint = open_checkpoint(config.init_from)
    return checkpoint, resolve_config(checkpoint, config.model, None)


def griffin_shapes(config: GriffinConfig) -> tuple[nnx.GraphDef[Griffin], nnx.State]:
    """A model's structure, and its parameters as shapes."""
    model = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)


def initial_params(config: TrainConfig, like: Any, mesh: Mesh | None) -> Any:
    """The parameters of the checkpoint config.init_from, structured like the nnx.State `like` and
    placed on the mesh; each tensor goes there as it is read. Raises UserError as open_start."""
    checkpoint, model = open_start(config)

    def put(name: str, array: np.ndarray) -> jax.Array:
        if mesh is None:
            return jax.device_put(array)
        return place(mesh, sharding.param_spec(name, array.ndim), array)[0]

    params = {name: put(name, array) for name, array in read_params(checkpoint, model.param_dtype)}
    return per_layer.stacked(params, like, config.model, mesh)


def open_checkpoints(
    run_dir: Path, config: TrainConfig, report: Callable[[str], None] = print
) -> store.Checkpoints:
    """The run's checkpoints to write to: the newest are kept, the best by HELD_OUT of those that
    were scored on the same text, and the one from which the run could be given other steps."""
    before_decay = decay_start(config.optimizer, config.steps)
    return run_folder.open_checkpoints(
        run_dir,
        keep=config.keep,
        best=ranking(config),
        always=() if before_decay is None else (before_decay,),
        report=report,
    )


def ranking(config: TrainConfig) -> str:
    """The name in a checkpoint of the metric that ranks it: HELD_OUT, and what it was scored on,
    which may change while the run goes on."""
    scored = [config.data.eval_sources, config.eval_tokens, config.eval_cut]
    return f"{HELD_OUT} {hashlib.sha256(json.dumps(scored).encode()).hexdigest()[:8]}"


def save(
    checkpoints: store.Checkpoints,
    train_state: TrainState,
    data_state: dict[str, Any],
    *,
    config: GriffinConfig,
    kept_state: dict[str, Any] | None = None,
    mesh: Mesh | None = None,
    held_out: float | None = None,
    skipped_in_a_row: int = 0,
) -> None:
    """Begin to write a checkpoint that `restore` goes on from exactly; the train state may be
    donated when this returns. held_out ranks it among the others. data_state and
    kept_state (of the data to be retained): of this process.

    Scanned layers are unstacked on the devices: the state a second time, for that moment.

    Raises OSError: there is no space for it, or the checkpoint before could not be written.
    """
    stacked = (train_state.params, train_state.opt_state)
    params, opt_state = per_layer.unstacked(stacked, config, mesh)
    both = processes.all_gather_text(json.dumps([data_state, kept_state]))
    states, kept = zip(*map(json.loads, both), strict=True)
    carried = train_state.carried
    ranked = checkpoints.best or HELD_OUT
    checkpoints.save(
        int(train_state.step),
        params,
        opt_state=opt_state if carried is None else {"optimizer": opt_state, "carried": carried},
        data_state={
            "batches": merge_states(states),
            **({} if kept_state is None else {"retained": merge_states(kept)}),
            "skipped": int(train_state.skipped),
            "skipped_in_a_row": skipped_in_a_row,
        },
        metrics={} if held_out is None else {HELD_OUT: held_out, ranked: held_out},
    )


def restore(
    checkpoints: store.Checkpoints,
    batches: Batches | PreferenceBatches,
    *,
    config: GriffinConfig,
    fresh: TrainState,
    mesh: Mesh | None = None,
    step: int | None = None,
) -> tuple[TrainState, dict[str, Any] | None] | None:
    """The train state of a step, by default the newest that is whole, and the state of the data to
    be retained, if there is one; None before the first.

    It is structured like `fresh`, which may hold jax.ShapeDtypeStructs, and lies on the mesh as
    sharding.shardings says, without one on the default device. `batches` goes on where it was.

    Raises UserError: the checkpoint is damaged, or the training data has changed since.
    """
    wanted = (fresh.params, fresh.opt_state)
    like = jax.eval_shape(lambda tree: per_layer.unstacked(tree, config), wanted)
    carried = jax.eval_shape(lambda: fresh.carried)
    if mesh is not None:
        like = _on(mesh, like, sharding.specs(like))
        states = sharding.state_specs(config)
        specs = Carried(states, states) if isinstance(carried, Carried) else states
        carried = carried and _on(mesh, carried, specs)
    opt_like = like[1] if carried is None else {"optimizer": like[1], "carried": carried}
    restored = checkpoints.restore(step, params_like=like[0], opt_state_like=opt_like)
    if restored is None:
        return None
    if restored.data_state is None:
        raise UserError(f"step {restored.step} does not say where its data goes on")
    batches.restore(restored.data_state["batches"])
    opt_state = restored.opt_state if carried is None else restored.opt_state["optimizer"]
    params, opt_state = per_layer.stacked((restored.params, opt_state), wanted, config, mesh)
    scalars: tuple = (np.int32(restored.step), np.int32(restored.data_state["skipped"]))
    step_now, skipped = jax.device_put(scalars) if mesh is None else place(mesh, P(), *scalars)
    if carried is not None:
        carried = restored.opt_state["carried"]
    state = TrainState(step_now, params, opt_state, skipped, carried)
    return state, restored.data_state.get("retained")


def skipped_in_a_row(run_dir: Path, step: int) -> int:
    """How many steps up to this one were not finite, one after the other."""

    def stored() -> str:
        folder = run_dir / store.STEPS / str(step)
        data_state = read_content(folder, DATA_STATE) if step else None
        return str((data_state or {}).get("skipped_in_a_row", 0))

    return int(processes.broadcast_text(stored))


def is_intact(run_dir: Path, step: int) -> bool:
    """Whether the parameters of a step are what was written; reads them all."""

    def answer() -> str:
        try:
            for _ in store.open_checkpoint(run_dir / store.STEPS / str(step)).read(
                np.dtype(np.float32)
            ):
                pass
        except Damaged:
            return "no"
        return "yes"

    return processes.broadcast_text(answer) == "yes"


def _on(mesh: Mesh, tree: Any, specs: Any) -> Any:
    """Shapes that say where they are to lie."""
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
        tree,
        specs,
    )
