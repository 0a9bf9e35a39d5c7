# SPDX-License-Identifier: Apache-2.0
"""The training loop: train() checks and builds (build.py), _loop() loops."""

import shlex
from pathlib import Path

import jax

from checkpoints.huggingface_json import huggingface_problems
from checkpoints.processes import is_first
from recurrentgemma import sharding
from recurrentgemma.counts import parameter_count
from recurrentgemma.errors import UserError
from training import cluster, pins, run, run_folder
from training.build import Built, build
from training.configs import TrainConfig
from training.finetuning.preference_inputs import open_preferences
from training.inputs import open_inputs
from training.launch import Launch, remember
from training.observe.trackers import import_wandb
from training.optim import decay_start
from training.retention import kept
from training.step import OBSERVED, TrainState

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
            if config.preference is not None:  # two rows of an example are on one device
                rows = config.batch_size // parts // 2
                sharding.check_batch(rows, config.sequence_length, mesh.shape)
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
    opened = open_inputs if config.preference is None else open_preferences
    inputs = opened(config, run_dir)
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
        built, train_state = build(config, run_dir, launch, mesh, inputs, kept_inputs, checkpoints)
        step = _loop(built, train_state, signals)
    if step < config.steps:
        say(INTERRUPTED.format(step=step, run_dir=shlex.quote(str(run_dir))))
        return False
    run.keep_adapters(run_dir, config)
    return True


def _loop(built: Built, train_state: TrainState, signals: list[int]) -> int:
    """To the last step, or to the one after which a signal has come. Returns that step."""
    config, batches, progress = built.config, built.batches, built.progress
    step, stopping = int(train_state.step), False
    before_decay = decay_start(config.optimizer, config.steps)
    with progress:
        while step < config.steps and not stopping:
            batch = built.watch.waiting(lambda: next(built.feed))
            data_state, epoch = batches.state(), batches.epoch
            beside = built.next_kept()
            kept_state = None if built.keeping is None else built.keeping.state()
            train_state, metrics = built.train_step(
                train_state, batch, built.frozen[0] if built.frozen else (), beside
            )
            step += 1
            observed = metrics.pop(OBSERVED, {})
            progress.step(step, metrics, epoch=epoch)  # reads the step before: this one runs on
            if built.trace.step(metrics, progress.pause):
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


def _silent(_line: str) -> None:
    """In processes but the first."""
