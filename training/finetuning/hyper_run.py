# SPDX-License-Identifier: Apache-2.0
"""A run that learns templates and a code for each task, or with given templates a code alone.

    hyper = HyperRun(...)                       # prepare_hyper.py
    train_hyper(hyper, run_dir)                 # run_dir/hyper_adapter.json: a checkpoint

The base is frozen. A step reads `rows` rows of every task, each with its own code, and minimises
the mean of the tasks' losses; templates and codes have learning rates of their own. Batches, and so
the run, follow from the config and the number of the step: it goes on where it stopped. One device.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from checkpoints import hyper_adapters as files
from checkpoints.load import load_checkpoint
from recurrentgemma.adapters import attach
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.hyper_adapters import HyperConfig, coded, fresh_templates, normed, plain_code
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.params import Flat, flat_params, from_flat_params
from recurrentgemma.text.tokenizer import Tokenizer, find_tokenizer, save_tokenizer
from training import cluster, run_folder
from training.data.batches import Batches
from training.data.chat_documents import ChatDocuments
from training.data.documents import Mixture
from training.data.sources.chat_lines import ChatLines
from training.data.sources.spec import parse_spec
from training.observe.metrics import MetricsLog
from training.optim import promoting

NOISE = 0.01  # of the codes' first values, which are alike but for that


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperRun:
    """Everything that decides what a run computes, but for the tokenizer. tasks: name -> the source
    of its conversations. source: a folder whose templates stay as they are; "" for new ones."""

    model: GriffinConfig
    init_from: str
    tasks: Mapping[str, str]
    hyper: HyperConfig
    source: str = ""
    steps: int = 1000
    rows: int = 4
    sequence_length: int = 256
    learning_rate: float = 2e-4
    code_rate: float = 2e-3
    warmup_steps: int = 30
    seed: int = 0
    log_every: int = 10
    save_every: int = 200
    keep: int = 2

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {"model": self.model.to_json(), "hyper_run": fields | {"model": None}}


def train_hyper(config: HyperRun, run_dir: Path, tokenizer: Tokenizer) -> bool:
    """Train to the last step, from where it stopped. False if a signal stopped it before.

    Raises UserError: the run directory, the templates or the data do not fit; or the loss is not
    finite. OSError: a checkpoint was not saved.
    """
    step = run_folder.open_run(run_dir, config.to_json(), may_change=("hyper_run.keep",))
    if (run_dir / files.CONFIG).is_file():
        print(f"{run_dir} is trained: step {step} of {config.steps}")
        return True
    base, first, frozen = opened(config)
    batches = [task_batches(config, spec, tokenizer) for spec in config.tasks.values()]
    run_folder.begin_run(run_dir, config.to_json())
    if find_tokenizer(run_dir, config.model.vocab_size) is None:
        save_tokenizer(tokenizer, run_dir)
    learn, tx = make_step(config)
    train_state = (first, tx.init(first))
    with (
        run_folder.locked(run_dir),
        run_folder.open_checkpoints(run_dir, keep=config.keep) as checkpoints,
        cluster.stop_on_signals() as signals,
        contextlib.ExitStack() as stack,
    ):
        saved = run_folder.restore(checkpoints, jax.eval_shape(lambda: train_state))
        step = 0
        if saved is not None:
            step, train_state = saved.step, saved.tree
            for one, state in zip(batches, saved.numbers["batches"], strict=True):
                one.restore(state)
        log = stack.enter_context(
            contextlib.closing(MetricsLog(run_dir / run_folder.METRICS, step=step))
        )
        while step < config.steps and not signals:
            learned, opt_state, loss = learn(base, frozen, *train_state, stacked(batches))
            train_state, step = (learned, opt_state), step + 1
            last = step == config.steps or bool(signals)
            if last or step % config.log_every == 0:
                if not np.isfinite(loss):
                    raise UserError(
                        f"the loss is not finite at step {step}: lower --learning-rate or "
                        "--hyper.code-rate, and start again in another --run-dir"
                    )
                log.write({"step": step, "loss": float(loss)})
                print(f"step {step:,} of {config.steps:,}: loss {float(loss):.4f}")
            if last or step % config.save_every == 0:
                states = [one.state() for one in batches]
                run_folder.save(checkpoints, step, train_state, numbers={"batches": states})
    for one in batches:
        one.close()
    if step < config.steps:
        print(f"stopped at step {step}; the same command goes on from there")
        return False
    files.write(run_dir, written(config, run_dir, train_state[0], frozen))
    return True


def opened(config: HyperRun) -> tuple[Flat, Flat, Flat]:
    """(the base, what is learned, templates that are not). Raises UserError: the templates are of
    another model."""
    model, _, _ = load_checkpoint(config.init_from, config.model)
    hyper, count = config.hyper, len(config.tasks)
    codes_KGM = jnp.repeat(plain_code(hyper)[None], count, 0)
    if config.source:
        kept = files.read(config.source)
        kept.check(config.model)
        if kept.codes:
            mean_GM = jnp.mean(jnp.stack([normed(jnp.asarray(x)) for x in kept.codes.values()]), 0)
            codes_KGM = jnp.repeat(normed(mean_GM)[None], count, 0)
        templates = {name: jnp.asarray(x) for name, x in kept.templates.items()}
        return flat_params(model), {"codes": codes_KGM}, templates
    templates = fresh_templates(config.model, hyper, seed=config.seed)
    noise_KGM = jax.random.normal(jax.random.key(config.seed), codes_KGM.shape)
    return flat_params(model), {**templates, "codes": codes_KGM + NOISE * noise_KGM}, {}


def task_batches(config: HyperRun, spec: str, tokenizer: Tokenizer) -> Batches:
    """Endless batches of one task. Raises UserError: a conversation is longer than a row."""
    documents = ChatDocuments(ChatLines(parse_spec(spec)), tokenizer)
    for number in range(len(documents)):
        pairs = len(documents.read(number).ids) - 1
        if pairs > config.sequence_length:
            raise UserError(
                f"{documents.name(number)} has {pairs:,} tokens, more than a row of "
                f"{config.sequence_length:,}: raise --sequence-length, so that no task is cut"
            )
    return Batches(
        Mixture((documents,), (1.0,)),
        batch_size=config.rows,
        row_length=config.sequence_length,
        seed=config.seed,
    )


def stacked(batches: Sequence[Batches]) -> Batch:
    """The next rows of every task, [K, B, T]."""
    return Batch(*(np.stack(parts) for parts in zip(*map(next, batches), strict=True)))  # type: ignore[arg-type]


def make_step(config: HyperRun) -> tuple[Any, optax.GradientTransformation]:
    """learn(base, frozen, learned, opt_state, batch) -> (learned, opt_state, loss), and the
    optimizer: Adam, warmed up, whose rates fall to a tenth by a cosine; gradients of a larger norm
    than 1 are scaled down."""
    model, hyper, steps = config.model, config.hyper, config.steps

    def falling(rate: float) -> optax.GradientTransformation:
        warmup = min(config.warmup_steps, steps - 1)
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps, rate / 10)
        return optax.adam(schedule if steps > 1 else rate)

    rates: Any = {"codes": falling(config.code_rate), "templates": falling(config.learning_rate)}

    def labels(learned: Flat) -> dict[str, str]:
        return {name: "codes" if name == "codes" else "templates" for name in learned}

    tx = promoting(
        optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(rates, labels))
    )

    def loss(learned: Flat, base: Flat, frozen: Flat, batch: Batch) -> jax.Array:
        templates = {**frozen, **{n: x for n, x in learned.items() if n != "codes"}}

        def of_task(code_GM: jax.Array, rows: Batch) -> jax.Array:
            flat = coded(model, hyper, templates, code_GM)
            adapted = attach(from_flat_params(model, base), flat, scale=hyper.scale)
            return next_token_loss(adapted, rows)[0]

        return jnp.mean(jax.vmap(of_task)(learned["codes"], batch))

    @jax.jit
    def learn(base: Flat, frozen: Flat, learned: Flat, opt_state: Any, batch: Batch) -> Any:
        value, grads = jax.value_and_grad(loss)(learned, base, frozen, batch)
        updates, opt_state = tx.update(grads, opt_state, learned)
        return optax.apply_updates(learned, updates), opt_state, value

    return learn, tx


def written(config: HyperRun, run_dir: Path, learned: Flat, frozen: Flat) -> files.HyperAdapters:
    """What the run has learned, with the codes by task."""
    templates = {**frozen, **{name: x for name, x in learned.items() if name != "codes"}}
    codes = dict(zip(config.tasks, np.asarray(normed(learned["codes"])), strict=True))
    return files.HyperAdapters(
        run_dir,
        config.hyper,
        config.model.num_layers,
        config.init_from,
        {name: np.asarray(x) for name, x in templates.items()},
        codes,
    )
