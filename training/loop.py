# SPDX-License-Identifier: Apache-2.0
"""The training loop, from top to bottom."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from checkpoints.processes import is_first
from checkpoints.store import Checkpoints
from eval.perplexity import score_documents
from recurrentgemma import sharding
from recurrentgemma.counts import parameter_count
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharded import init_params, start_state
from training import cluster, run
from training.configs import TrainConfig
from training.data.batches import Batches
from training.finetuning import lora
from training.inputs import Feed, Inputs, open_inputs
from training.launch import Launch, own_rows
from training.observe.metrics import MetricsLog
from training.observe.profiling import Trace
from training.observe.progress import Progress
from training.observe.stopwatch import Stopwatch
from training.observe.trackers import TensorBoard, Tracker, WeightsAndBiases, import_wandb
from training.optim import learning_rate_schedule, make_optimizer
from training.planning.fit import fitting
from training.step import TrainState, init_train_state, make_train_step

INTERRUPTED = "stopped at step {step}; the same command goes on from there"


def train(config: TrainConfig, run_dir: Path, launch: Launch | None = None) -> bool:
    """Train the run to its last step, from where it stopped. False if a signal stopped it before.

    SIGINT and SIGTERM (to any process, where there are several) end the step in flight, save and
    return; a second one ends the process.

    Raises ValueError: text, tokenizer, mesh or run directory do not fit (data/config.py,
    launch.py, run.py), or the run diverged (progress.py). OSError: a checkpoint was not saved.
    """
    launch = launch or Launch()
    say = print if is_first() else _silent
    mesh = launch.make_mesh()
    if mesh is not None:
        sharding.check_model(config.model, mesh.shape)
        try:
            part = config.batch_size // config.accumulate
            sharding.check_batch(part, config.row_length, mesh.shape)
        except UserError as error:
            if config.accumulate == 1:
                raise
            raise UserError(
                f"accumulate={config.accumulate} of batch_size={config.batch_size}: {error}"
            ) from None
    if launch.wandb:
        import_wandb(launch.wandb)
    step = run.open_run(run_dir, config, say)
    if step >= config.steps and run.is_intact(run_dir, step):  # otherwise from the one before
        say(f"{run_dir} is trained: step {step} of {config.steps}")
        run.keep_adapters(run_dir, config)
        return True
    if config.init_from:
        run.open_start(config)
    inputs = open_inputs(config, run_dir)
    run.begin_run(run_dir, config, inputs.tokenizer)
    say(f"{inputs.describe()}; {parameter_count(config.model):,} parameters; {run_dir}")
    if mesh is not None:
        axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
        say(f"{mesh.size} devices, {axes}, in {jax.process_count()} processes")
    with (
        run.locked(run_dir),
        run.open_checkpoints(run_dir, config, say) as checkpoints,
        cluster.stop_on_signals() as signals,
    ):
        step = _train(config, run_dir, launch, mesh, inputs, checkpoints, signals)
    if step < config.steps:
        say(INTERRUPTED.format(step=step))
        return False
    run.keep_adapters(run_dir, config)
    return True


def _train(
    config: TrainConfig,
    run_dir: Path,
    launch: Launch,
    mesh: Mesh | None,
    inputs: Inputs,
    checkpoints: Checkpoints,
    signals: list[int],
) -> int:
    """From the newest checkpoint, or the beginning, to the last step or a signal. Returns the
    step."""
    rows = own_rows(mesh, config.batch_size)
    batches = Batches(
        inputs.mixture,
        batch_size=config.batch_size,
        row_length=config.row_length,
        seed=config.seed,
        long_documents=config.data.long_documents,
        epochs=config.data.epochs,
        rows=rows,
        threads=config.data.threads,
    )
    batches.check_steps(config.steps)
    tx = make_optimizer(config.optimizer, steps=config.steps)
    model = fitting(
        config.model,
        rows=config.batch_size // config.accumulate,
        sequence=config.row_length,
        trained=None if config.lora is None else 0,  # adapters: next to nothing
        mesh=mesh,
    )
    if is_first() and model.remat not in (config.model.remat, "none"):
        print(f"remat {model.remat}: the least recomputation that fits")
    config = dataclasses.replace(config, model=model)
    graphdef, train_state, frozen = _first_state(config, tx, mesh, checkpoints, batches)
    train_step = make_train_step(
        graphdef,
        tx,
        mesh=mesh,
        z_loss=config.z_loss,
        accumulate=config.accumulate,
        schedule=learning_rate_schedule(config.optimizer, config.steps),
    )
    step = int(train_state.step)
    watch = Stopwatch(
        config.model,
        tokens_per_step=config.batch_size * config.row_length,
        row_length=config.row_length,
        devices=jax.devices()[:1] if mesh is None else list(mesh.devices.flat),
    )
    feed = Feed(batches, mesh, batch_size=config.batch_size, rows=rows)
    trace = Trace(run_dir, launch.profile)
    progress = Progress(
        config,
        _trackers(config, run_dir, launch, step),
        watch,
        bytes_per_token=inputs.mixture.bytes_per_token(),
        step=step,
        skipped=int(train_state.skipped),
        skipped_in_a_row=run.skipped_in_a_row(run_dir, step),
        shown=is_first(),
    )

    def evaluate(*, whole: bool) -> float | None:
        model = nnx.merge(graphdef, train_state.params, *frozen)
        bits = held_out_bits_per_byte(model, inputs, whole=whole, mesh=mesh)
        if bits is not None:
            progress.held_out(step, bits)
        return bits

    with progress:
        stopping = False
        while step < config.steps and not stopping:
            batch = watch.waiting(lambda: next(feed))
            data_state, epoch = batches.state(), batches.epoch
            train_state, metrics = train_step(train_state, batch, *frozen)
            step += 1
            progress.step(step, metrics, epoch=epoch)  # reads the step before: this one runs on
            if trace.step(metrics):
                progress.say(f"step {step:,}: {launch.profile} steps are traced in {trace.folder}")
            stopping = cluster.should_stop(step, bool(signals))
            last, bits, unscored = step == config.steps, None, None
            try:
                if last:
                    evaluate(whole=True)  # on more text than the others: it does not rank with them
                elif step % config.eval_every == 0:
                    bits = evaluate(whole=False)
            except (UserError, OSError) as error:  # of the held-out text; the model is as it was
                if jax.process_count() > 1:
                    raise  # the others are not where they could save
                unscored = error
            if last or stopping or unscored or step % config.save_every == 0:
                progress.flush()
                run.save(
                    checkpoints,
                    train_state,
                    data_state,
                    config=config.model,
                    mesh=mesh,
                    held_out=bits,
                    skipped_in_a_row=progress.skipped_in_a_row,
                )
            if unscored:
                raise unscored
        trace.close(train_state)
    return step


def _first_state(
    config: TrainConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh | None,
    checkpoints: Checkpoints,
    batches: Batches,
) -> tuple[nnx.GraphDef[Griffin], TrainState, tuple[Any, ...]]:
    """The model's structure, the train state of the newest checkpoint or of step 0 (never both at
    once), and the parameters that are not trained, if there are any."""
    graphdef, shapes = nnx.split(
        nnx.eval_shape(lambda: Griffin(config.model, rngs=nnx.Rngs(0))), nnx.Param
    )
    params, frozen = shapes, ()
    if config.lora is not None:
        base = nnx.merge(graphdef, run.initial_params(config, shapes, mesh))
        adapted = lora.adapt(base, config.lora, seed=config.seed, mesh=mesh)
        graphdef, params, *frozen = lora.split(adapted)
    carries = config.data.long_documents == "carry"

    def start(params: Any, mesh: Mesh | None) -> TrainState:
        carried = start_state(config.model, config.batch_size, mesh) if carries else None
        return init_train_state(params, tx, mesh, carried=carried)

    fresh = jax.eval_shape(lambda params: start(params, None), params)
    found = run.restore(checkpoints, batches, config=config.model, fresh=fresh, mesh=mesh)
    if found is not None:
        return graphdef, found, tuple(frozen)
    if config.lora is None:
        if config.init_from:
            params = run.initial_params(config, shapes, mesh)
        elif mesh is not None:
            params = init_params(config.model, mesh, config.seed)[1]
        else:
            params = nnx.state(Griffin(config.model, rngs=nnx.Rngs(config.seed)), nnx.Param)
    return graphdef, start(params, mesh), tuple(frozen)


def held_out_bits_per_byte(
    model: Griffin, inputs: Inputs, *, whole: bool = True, mesh: Mesh | None = None
) -> float | None:
    """Bits per byte of the held-out documents, or of their starts; None if there are none."""
    if not inputs.is_scored:
        return None
    held_out = inputs.held_out() if whole else inputs.held_out_starts
    text_bytes = sum(held.bytes for held in held_out)
    documents = [held.document for held in held_out]
    if inputs.config.eval_cut or "global_attention" in model.config.block_types:
        length = inputs.config.row_length
        documents = [
            document.cut(start, start + length + 1)
            for document in documents
            for start in range(0, len(document.ids) - 1, length)
        ]
    return score_documents(model, documents, text_bytes, mesh=mesh).bits_per_byte


def _trackers(config: TrainConfig, run_dir: Path, launch: Launch, step: int) -> list[Tracker]:
    """In the first process, which writes what is written once."""
    if not is_first():
        return []
    found: list[Tracker] = [MetricsLog(run_dir / run.METRICS, step=step)]
    if launch.tensorboard:
        found.append(TensorBoard(run_dir, step=step))
    if launch.wandb:
        said = {"model": config.model.to_json(), "train": config.to_json()}
        found.append(WeightsAndBiases(launch.wandb, run_dir, said))
    return found


def _silent(_line: str) -> None:
    """In processes but the first."""
