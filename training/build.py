# SPDX-License-Identifier: Apache-2.0
"""What the training loop runs with: the model, its step, its data, its records and checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from checkpoints.processes import is_first
from checkpoints.store import Checkpoints
from eval.diagnostics.panel import update_ratios
from recurrentgemma.counts import flops_per_token
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharded import init_params, start_state
from training import run, run_folder
from training.configs import TrainConfig
from training.data.batches import Batches
from training.diagnostics import Diagnostics
from training.finetuning import lora
from training.finetuning.preference_batches import PreferenceBatches
from training.finetuning.preference_inputs import PreferenceInputs, measure, score
from training.finetuning.preference_losses import Preferred
from training.inputs import Feed, Inputs, bits_per_byte_of
from training.launch import Launch, own_rows
from training.observe.metrics import MetricsLog, bits_per_byte
from training.observe.profiling import Trace
from training.observe.progress import TrainingProgress
from training.observe.stopwatch import Stopwatch
from training.observe.trackers import TensorBoard, Tracker, WeightsAndBiases
from training.optim import learning_rate_schedule, make_optimizer
from training.planning.fit import fitting
from training.pruning.shrink import measure_zero_units, shrinking
from training.retention import kept
from training.retention.objective import Carried, Kept
from training.step import (
    NOTHING,
    TrainState,
    TrainStep,
    init_train_state,
    make_train_step,
)

SHOWN = tuple(f"held_out_{name}" for name in ("loss", "accuracy", "reward_margin"))


class Built(NamedTuple):
    """What the loop runs with."""

    config: TrainConfig
    mesh: Mesh | None
    inputs: Inputs | PreferenceInputs
    batches: Batches | PreferenceBatches
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
    start: Any  # the parameters before the first step, where something compares with them
    objective: Preferred | None  # None: next tokens

    def next_kept(self) -> Kept:
        """What the next step reads beside its batch."""
        beside = NOTHING if self.keeping is None else self.keeping.next()
        return beside._replace(start=self.start)

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
            if self.objective is not None:
                self._evaluate_preferences(step, train_state, whole=last)
                return None, None
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

    def _evaluate_preferences(self, step: int, train_state: TrainState, *, whole: bool) -> None:
        inputs, objective = self.inputs, self.objective
        assert isinstance(inputs, PreferenceInputs)
        assert objective is not None
        if not (examples := inputs.scored(whole=whole)):
            return
        rows = own_rows(self.mesh, self.config.batch_size)
        batches = inputs.batches(rows, self.mesh, examples)
        feed = Feed(batches, self.mesh, batch_size=self.config.batch_size, rows=rows)
        run_batch = measure(self.graphdef, objective, self.mesh)
        frozen = self.frozen[0] if self.frozen else ()
        numbers = score(
            feed, lambda batch: run_batch(train_state.params, frozen, self.start, batch)
        )
        shown = ", ".join(f"{name} {numbers[name]:.3f}" for name in SHOWN if name in numbers)
        self.progress.say(f"step {step:,}: of {len(examples):,} preferences {shown}")
        self.progress.evaluated(numbers)

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


def build(
    config: TrainConfig,
    run_dir: Path,
    launch: Launch,
    mesh: Mesh | None,
    inputs: Inputs | PreferenceInputs,
    kept_inputs: kept.KeptInputs | None,
    checkpoints: Checkpoints,
) -> tuple[Built, TrainState]:
    """What the loop runs with, and the train state of the newest checkpoint or of step 0."""
    rows = own_rows(mesh, config.batch_size)
    batches = inputs.batches(rows, mesh)
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
        parts=config.grad_accumulation_steps,
        trained=None if config.lora is None else 0,  # adapters: next to nothing
        beside=kept.held_bytes(config),
        mesh=mesh,
    )
    if is_first() and model.remat not in (config.model.remat, "none"):
        print(f"remat {model.remat}: the least recomputation that fits")
    config = dataclasses.replace(config, model=model)
    graphdef, train_state, frozen, kept_state = first_state(config, tx, mesh, checkpoints, batches)
    keeping = None
    if kept_inputs is not None:
        keeping = kept.begin(kept_inputs, run_dir, frozen, mesh)
        if keeping.batches is not None and kept_state is not None:
            keeping.batches.restore(kept_state)
    objective, start = None, () if keeping is None else keeping.start
    if config.preference is not None:
        plain, shapes = run.griffin_shapes(config.model)
        objective = Preferred(config.preference, plain)
        if not frozen and not start:
            start = run.initial_params(config, shapes, mesh)
    train_step = make_train_step(
        graphdef,
        tx,
        mesh=mesh,
        z_loss=config.z_loss,
        grad_accumulation_steps=config.grad_accumulation_steps,
        schedule=learning_rate,
        measure=measure_zero_units if config.prune.penalty else None,
        observe=update_ratios if config.diagnostics_every else None,
        objective=objective,
        retention=None if keeping is None else keeping.retention,
    )
    diagnostics = None
    if config.diagnostics_every and isinstance(inputs, Inputs):
        diagnostics = Diagnostics(config, graphdef, inputs.mixture, mesh)
    step, tokens = int(train_state.step), config.batch_size * config.sequence_length
    flops = tokens * flops_per_token(config.model, config.sequence_length)["training"]
    prefers = config.preference is not None  # its rows are of no fixed length
    watch = Stopwatch(
        items_per_step=config.batch_size // 2 if prefers else tokens,
        unit="preferences" if prefers else "tokens",
        flops_per_step=None if prefers else flops,
        devices=jax.devices()[:1] if mesh is None else list(mesh.devices.flat),
    )
    bytes_per_token = inputs.bytes_per_token()

    def derived(record: dict[str, Any]) -> dict[str, Any]:
        numbers: dict[str, Any] = {} if prefers else {"tokens": record["step"] * tokens}
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
    built = Built(
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
        start=start,
        objective=objective,
    )
    return built, train_state


def first_state(
    config: TrainConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh | None,
    checkpoints: Checkpoints,
    batches: Batches | PreferenceBatches,
) -> tuple[nnx.GraphDef[Griffin], TrainState, tuple[Any, ...], dict[str, Any] | None]:
    """The model's structure, the train state of the newest checkpoint or of step 0 (never both at
    once), the parameters that are not trained, if there are any, and where the data to be retained
    goes on, if a step has read any."""
    graphdef, shapes = run.griffin_shapes(config.model)
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
    model: Griffin,
    inputs: Inputs | PreferenceInputs,
    *,
    whole: bool = True,
    mesh: Mesh | None = None,
) -> float | None:
    """Bits per byte of the held-out documents, or of their starts; None if there are none."""
    if isinstance(inputs, PreferenceInputs) or not inputs.is_scored:
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
