# SPDX-License-Identifier: Apache-2.0
"""The training loop: train() checks, _build() builds, _loop() loops."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from checkpoints.huggingface_json import huggingface_problems
from checkpoints.processes import is_first
from checkpoints.store import Checkpoints
from eval.diagnostics.panel import update_ratios
from recurrentgemma import sharding
from recurrentgemma.counts import flops_per_token, parameter_count
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharded import init_params, start_state
from training import cluster, pins, run, run_folder
from training.configs import TrainConfig
from training.data.batches import Batches
from training.diagnostics import Diagnostics
from training.finetuning import lora
from training.inputs import Feed, Inputs, bits_per_byte_of, open_inputs
from training.launch import Launch, own_rows, remember
from training.observe.metrics import MetricsLog, bits_per_byte
from training.observe.profiling import Trace
from training.observe.progress import TrainingProgress
from training.observe.stopwatch import Stopwatch
from training.observe.trackers import TensorBoard, Tracker, WeightsAndBiases, import_wandb
from training.optim import decay_start, learning_rate_schedule, make_optimizer
from training.planning.fit import fitting
from training.pruning.shrink import measure_zero_units, shrinking
from training.retention import kept
from training.retention.objective import Carried
from training.step import (
    NOTHING,
    OBSERVED,
    TrainState,
    TrainStep,
    init_train_state,
    make_train_step,
)

INTERRUPTED = (
    "stopped at step {step}; the same command goes on from there, as does "
    "`griffin train --run-dir {run_dir}`"
)


def train(config: TrainConfig, run_dir: Path, launch: Launch | None = None) -> bool:
    """Train the run to its last step, from where it stopped. False if a signal stopped it before.

    SIGINT and SIGTERM (to any process, where there are several) end the step in flight, save and
    return; a second one ends the process.

    Raises UserError: text, tokenizer, mesh or run directory do not fit (data/config.py,
    launch.py, run.py), or the run diverged (progress.py). OSError: a checkpoint was not saved.
    """
    if config.policy is not None:
        raise UserError(
            f"{run_dir} learns from rewards: the `griffin finetune --method "
            f"{config.policy.method}` that began it goes on with it"
        )
    launch, config = launch or Launch(), pins.pin(config.with_absolute_paths(), run_dir)
    say = print if is_first() else _silent
    mesh = launch.make_mesh()
    if mesh is not None:
        sharding.check_model(config.model, mesh.shape)
        parts = config.grad_accumulation_steps
        try:
            sharding.check_batch(config.batch_size // parts, config.sequence_length, mesh.shape)
            if retained := config.retain.batch_size:
                sharding.check_batch(retained // parts, config.sequence_length, mesh.shape)
        except UserError as error:
            if parts == 1:
                raise
            raise UserError(
                f"grad_accumulation_steps={parts} of batch_size={config.batch_size}: {error}"
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
    kept_inputs = None
    if config.retain.method != "none":
        kept_inputs = kept.KeptInputs.open(config, inputs.tokenizer)
    run.begin_run(run_dir, config, inputs.tokenizer)
    remember(run_dir, launch)
    say(f"{inputs.describe()}; {parameter_count(config.model):,} parameters; {run_dir}")
    if problems := huggingface_problems(config.model):
        say(f"this model cannot be exported to transformers: {'; '.join(problems)}")
    if mesh is not None:
        axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
        say(f"{mesh.size} devices, {axes}, in {jax.process_count()} processes")
    with (
        run_folder.locked(run_dir),
        run.open_checkpoints(run_dir, config, say) as checkpoints,
        cluster.stop_on_signals() as signals,
    ):
        built, train_state = _build(config, run_dir, launch, mesh, inputs, kept_inputs, checkpoints)
        step = _loop(built, train_state, signals)
    if step < config.steps:
        say(INTERRUPTED.format(step=step, run_dir=shlex.quote(str(run_dir))))
        return False
    run.keep_adapters(run_dir, config)
    return True


def _loop(built: "_Built", train_state: TrainState, signals: list[int]) -> int:
    """To the last step, or to the one after which a signal has come. Returns that step."""
    config, batches, progress = built.config, built.batches, built.progress
    step, stopping = int(train_state.step), False
    before_decay = decay_start(config.optimizer, config.steps)
    with progress:
        while step < config.steps and not stopping:
            batch = built.watch.waiting(lambda: next(built.feed))
            data_state, epoch = batches.state(), batches.epoch
            beside = NOTHING if built.keeping is None else built.keeping.next()
            kept_state = None if built.keeping is None else built.keeping.state()
            train_state, metrics = built.train_step(
                train_state, batch, built.frozen[0] if built.frozen else (), beside
            )
            step += 1
            observed = metrics.pop(OBSERVED, {})
            progress.step(step, metrics, epoch=epoch)  # reads the step before: this one runs on
            if built.trace.step(metrics):
                progress.say(f"step {step:,}: traced into {built.trace.folder}")
            stopping = cluster.should_stop(step, bool(signals))
            if built.diagnostics is not None and step % config.diagnostics_every == 0:
                panel = built.diagnostics(train_state.params, built.frozen, observed)
                progress.evaluated(panel)
            ranked, failed = built.evaluate(step, train_state)
            saved = step in (config.steps, before_decay) or step % config.save_every == 0
            if saved or stopping or failed:
                progress.flush()
                built.save(train_state, data_state, kept_state, held_out=ranked)
            if failed:
                raise failed
        built.trace.close(train_state)
    return step


class _Built(NamedTuple):
    """What the loop runs with."""

    config: TrainConfig
    mesh: Mesh | None
    inputs: Inputs
    batches: Batches
    feed: Feed
    graphdef: nnx.GraphDef[Griffin]
    frozen: tuple[Any, ...]  # the parameters that are not trained, if there are any
    train_step: TrainStep
    watch: Stopwatch
    progress: TrainingProgress
    trace: Trace
    checkpoints: Checkpoints
    diagnostics: Diagnostics | None
    keeping: kept.Keeping | None

    def evaluate(
        self, step: int, train_state: TrainState
    ) -> tuple[float | None, UserError | OSError | None]:
        """Score the held-out text, if this step is one of those. Returns the bits per byte by which
        the step ranks, if it does, and what was wrong with the text: the model is as it was, and
        can be saved first."""
        last = step == self.config.steps
        if not last and step % self.config.eval_every:
            return None, None
        model = nnx.merge(self.graphdef, train_state.params, *self.frozen)
        try:
            self._evaluate_retained(step, model)
            bits = held_out_bits_per_byte(model, self.inputs, whole=last, mesh=self.mesh)
        except (UserError, OSError) as error:
            if jax.process_count() > 1:
                raise  # the others are not where they could save
            return None, error
        if bits is None:
            return None, None
        part = "" if last else f" (first {self.config.eval_tokens:,} tokens of each)"
        self.progress.say(f"step {step:,}: held-out text{part}: {bits:.3f} bits per byte")
        self.progress.evaluated({run.HELD_OUT: bits})
        return None if last else bits, None  # the last is scored on more text than the others

    def _evaluate_retained(self, step: int, model: Griffin) -> None:
        bits = None if self.keeping is None else self.keeping.bits_per_byte(model, self.mesh)
        if bits is not None:
            self.progress.say(f"step {step:,}: text to be retained: {bits:.3f} bits per byte")
            self.progress.evaluated({kept.BITS: bits})

    def save(
        self,
        train_state: TrainState,
        data_state: dict[str, Any],
        kept_state: dict[str, Any] | None,
        *,
        held_out: float | None,
    ) -> None:
        """Begin to write a checkpoint."""
        run.save(
            self.checkpoints,
            train_state,
            data_state,
            kept_state=kept_state,
            config=self.config.model,
            mesh=self.mesh,
            held_out=held_out,
            skipped_in_a_row=self.progress.skipped_in_a_row,
        )


def _build(
    config: TrainConfig,
    run_dir: Path,
    launch: Launch,
    mesh: Mesh | None,
    inputs: Inputs,
    kept_inputs: kept.KeptInputs | None,
    checkpoints: Checkpoints,
) -> tuple[_Built, TrainState]:
    """What the loop runs with, and the train state of the newest checkpoint or of step 0."""
    rows = own_rows(mesh, config.batch_size)
    batches = Batches(
        inputs.mixture,
        batch_size=config.batch_size,
        row_length=config.sequence_length,
        seed=config.seed,
        long_documents=config.data.long_documents,
        epochs=config.data.epochs,
        rows=rows,
        threads=config.data.threads,
    )
    batches.check_steps(config.steps)
    tx = make_optimizer(config.optimizer, steps=config.steps)
    learning_rate = learning_rate_schedule(config.optimizer, config.steps)
    if config.prune.penalty:
        tx = shrinking(
            tx,
            config.prune,
            config.model,
            steps=config.steps,
            learning_rate=learning_rate,
            seed=config.seed,
        )
    model = fitting(
        config.model,
        rows=config.batch_size // config.grad_accumulation_steps,
        sequence=config.sequence_length,
        trained=None if config.lora is None else 0,  # adapters: next to nothing
        mesh=mesh,
    )
    if is_first() and model.remat not in (config.model.remat, "none"):
        print(f"remat {model.remat}: the least recomputation that fits")
    config = dataclasses.replace(config, model=model)
    graphdef, train_state, frozen, kept_state = _first_state(config, tx, mesh, checkpoints, batches)
    keeping = None
    if kept_inputs is not None:
        keeping = kept.begin(kept_inputs, run_dir, frozen, mesh)
        if keeping.batches is not None and kept_state is not None:
            keeping.batches.restore(kept_state)
    train_step = make_train_step(
        graphdef,
        tx,
        mesh=mesh,
        z_loss=config.z_loss,
        grad_accumulation_steps=config.grad_accumulation_steps,
        schedule=learning_rate,
        measure=measure_zero_units if config.prune.penalty else None,
        observe=update_ratios if config.diagnostics_every else None,
        retention=None if keeping is None else keeping.retention,
    )
    diagnostics = None
    if config.diagnostics_every:
        diagnostics = Diagnostics(config, graphdef, inputs.mixture, mesh)
    step, tokens = int(train_state.step), config.batch_size * config.sequence_length
    watch = Stopwatch(
        items_per_step=tokens,
        flops_per_step=tokens * flops_per_token(config.model, config.sequence_length)["training"],
        devices=jax.devices()[:1] if mesh is None else list(mesh.devices.flat),
    )
    bytes_per_token = inputs.mixture.bytes_per_token()

    def derived(record: dict[str, Any]) -> dict[str, Any]:
        numbers: dict[str, Any] = {"tokens": record["step"] * tokens}
        if bytes_per_token is not None:
            bits = bits_per_byte(record["loss"], bytes_per_token=bytes_per_token)
            numbers["bits_per_byte"] = bits
        return numbers

    progress = TrainingProgress(
        open_trackers(config, run_dir, launch, step),
        watch,
        steps=config.steps,
        log_every=config.log_every,
        skip_limit=config.skip_limit,
        derived=derived,
        step=step,
        skipped=int(train_state.skipped),
        skipped_in_a_row=run.skipped_in_a_row(run_dir, step),
        shown=is_first(),
    )
    built = _Built(
        config=config,
        mesh=mesh,
        inputs=inputs,
        batches=batches,
        feed=Feed(batches, mesh, batch_size=config.batch_size, rows=rows),
        graphdef=graphdef,
        frozen=frozen,
        train_step=train_step,
        watch=watch,
        progress=progress,
        trace=Trace(run_dir, launch.profile),
        checkpoints=checkpoints,
        diagnostics=diagnostics,
        keeping=keeping,
    )
    return built, train_state


def _first_state(
    config: TrainConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh | None,
    checkpoints: Checkpoints,
    batches: Batches,
) -> tuple[nnx.GraphDef[Griffin], TrainState, tuple[Any, ...], dict[str, Any] | None]:
    """The model's structure, the train state of the newest checkpoint or of step 0 (never both at
    once), the parameters that are not trained, if there are any, and where the data to be retained
    goes on, if a step has read any."""
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
        carried: Any = None
        if carries:
            carried = start_state(config.model, config.batch_size, mesh)
            if config.retain.kickstarts:
                carried = Carried(carried, start_state(config.model, config.batch_size, mesh))
        return init_train_state(params, tx, mesh, carried=carried)

    fresh = jax.eval_shape(lambda params: start(params, None), params)
    saved = run.restore(checkpoints, batches, config=config.model, fresh=fresh, mesh=mesh)
    if saved is not None:
        return graphdef, saved[0], tuple(frozen), saved[1]
    if config.lora is None:
        if config.init_from:
            params = run.initial_params(config, shapes, mesh)
        elif mesh is not None:
            params = init_params(config.model, mesh, config.seed)[1]
        else:
            params = nnx.state(Griffin(config.model, rngs=nnx.Rngs(config.seed)), nnx.Param)
    return graphdef, start(params, mesh), tuple(frozen), None


def held_out_bits_per_byte(
    model: Griffin, inputs: Inputs, *, whole: bool = True, mesh: Mesh | None = None
) -> float | None:
    """Bits per byte of the held-out documents, or of their starts; None if there are none."""
    if not inputs.is_scored:
        return None
    held_out = inputs.held_out() if whole else inputs.held_out_starts
    return bits_per_byte_of(model, held_out, inputs.config, mesh)


def open_trackers(config: TrainConfig, run_dir: Path, launch: Launch, step: int) -> list[Tracker]:
    """Where records of the run go from this step on: in the first process, which writes what is
    written once."""
    if not is_first():
        return []
    trackers: list[Tracker] = [MetricsLog(run_dir / run_folder.METRICS, step=step)]
    if launch.tensorboard:
        trackers.append(TensorBoard(run_dir, step=step))
    if launch.wandb:
        trackers.append(WeightsAndBiases(launch.wandb, run_dir, run.content(config)))
    return trackers


def _silent(_line: str) -> None:
    """In processes but the first."""
