# SPDX-License-Identifier: Apache-2.0
"""A run that learns from rewards, from its folder to its last iteration: train_policy() checks,
_build() builds, _loop() loops.

Everything of an iteration follows from its number and the seed: which prompts, what is drawn, the
order of the minibatches. So a checkpoint holds parameters, value head and optimizer alone, and a
run that was killed goes on bit for bit. It runs on one device.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from checkpoints.store import Checkpoints
from recurrentgemma.counts import parameter_count
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharding import MeshConfig
from recurrentgemma.text.tokenizer import Tokenizer
from training import cluster, per_layer, pins, run, run_folder
from training.build import open_trackers
from training.configs import TrainConfig
from training.finetuning import lora
from training.finetuning.policy import Judge, value_head
from training.finetuning.policy_config import PolicyConfig
from training.finetuning.policy_metrics import representation
from training.finetuning.policy_update import PolicyState, make_update
from training.finetuning.questions import Question, QuestionReader, chosen
from training.finetuning.reward import RIGHT, Reward, exact, load_reward, rewards
from training.finetuning.rollout import Rollout, Sampler
from training.launch import Launch, remember
from training.observe.profiling import Trace
from training.observe.progress import TrainingProgress
from training.observe.stopwatch import Stopwatch
from training.observe.trackers import Tracker, import_wandb
from training.optim import OptimConfig, learning_rate_schedule, make_optimizer
from training.planning.fit import fitting


def train_policy(config: TrainConfig, run_dir: Path, launch: Launch | None = None) -> bool:
    """Train the run to its last iteration, from where it stopped. False if a signal stopped it
    before: SIGINT and SIGTERM end the iteration in flight, and save.

    Raises UserError: prompts, reward, tokenizer, launch or run directory do not fit, or the run
    diverged (progress.py). OSError: a checkpoint was not saved.
    """
    launch, config = launch or Launch(), pins.pin(config.with_absolute_paths(), run_dir)
    check_launch(launch)
    assert config.policy is not None
    if launch.wandb:
        import_wandb(launch.wandb)
    step = run.open_run(run_dir, config)
    if step >= config.steps and run.is_intact(run_dir, step):
        print(f"{run_dir} is trained: iteration {step} of {config.steps}")
        run.keep_adapters(run_dir, config)
        return True
    run.open_start(config)
    tokenizer = run.run_tokenizer(run_dir, config, ())
    asking = open_questions(config, tokenizer)
    run.begin_run(run_dir, config, tokenizer)
    remember(run_dir, launch)
    print(f"{parameter_count(config.model):,} parameters on {jax.devices()[0]}; {run_dir}")
    with (
        run_folder.locked(run_dir),
        run.open_checkpoints(run_dir, config) as checkpoints,
        cluster.stop_on_signals() as signals,
    ):
        built, state, step = _build(config, run_dir, launch, asking, tokenizer, checkpoints)
        step = _loop(built, state, step, signals)
    if step < config.steps:
        print(f"stopped at iteration {step}; the same command goes on from there")
        return False
    run.keep_adapters(run_dir, config)
    return True


def check_launch(launch: Launch) -> None:
    """Raises UserError: it asks for more than one device."""
    if launch.mesh != MeshConfig() or launch.devices > 1 or jax.process_count() > 1:
        raise UserError(
            "learning from rewards runs on one device: leave --mesh.*, --devices and --cluster.* "
            "out"
        )


class Asking(NamedTuple):
    """What is asked and what answers are worth."""

    questions: list[Question]
    held_out: list[Question]
    stop_ids: tuple[int, ...]
    reward: Reward
    named: str  # the reward, for messages

    @property
    def most(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(question.ids) for question in (*self.questions, *self.held_out))


def open_questions(config: TrainConfig, tokenizer: Tokenizer) -> Asking:
    """Read all prompts, and load the reward. Raises UserError as questions.py and reward.py."""
    policy = config.policy
    assert policy is not None
    most = config.sequence_length - policy.max_new_tokens
    reader = QuestionReader(policy, tokenizer, most=most)
    reward = load_reward(policy.reward) if policy.reward else exact(policy.answer_field)
    return Asking(
        reader.read(policy.prompts),
        reader.read(policy.held_out),
        reader.stop_ids,
        reward,
        policy.reward or "exact answers",
    )


class _Built(NamedTuple):
    """What the loop runs with."""

    config: TrainConfig
    policy: PolicyConfig
    asking: Asking
    sampler: Sampler
    update: Any
    represent: Any
    reference: Any
    frozen: Any  # parameters that are not trained; () if there are none
    trackers: Sequence[Tracker]
    progress: TrainingProgress
    trace: Trace
    checkpoints: Checkpoints

    def whole(self, state: PolicyState) -> Any:
        """All parameters of the model."""
        params = state.trained["policy"]
        return nnx.merge_state(params, self.frozen) if self.frozen else params

    def rollout(self, state: PolicyState, step: int) -> tuple[Rollout, dict[str, float]]:
        """That of the iteration after `step`, with rewards, and what is logged of it."""
        size = self.policy.group_size
        count = self.policy.rollout // size
        seed = self.config.seed
        prompts = chosen(self.asking.questions, seed=seed, start=step * count, count=count)
        prompts = [question for question in prompts for _ in range(size)]
        rollout, answers = self.sampler.draw(self.whole(state), prompts, seed=[seed, step])
        reward_N = rewards(self.asking.reward, self.asking.named, prompts, answers)
        rollout = rollout._replace(reward_B=reward_N)
        return rollout, summarised(rollout, self.sampler.is_cut(rollout))

    def evaluated(self, state: PolicyState) -> dict[str, float]:
        """Of the held-out prompts, answered with the likeliest tokens."""
        held_out, size = self.asking.held_out, self.policy.rollout
        parts = []
        for start in range(0, len(held_out), size):
            part = held_out[start : start + size]
            filled = [*part, *[held_out[0]] * (size - len(part))]  # compiles nothing again
            rollout, answers = self.sampler.draw(
                self.whole(state), filled, seed=[0], temperature=0.0
            )
            reward_N = rewards(self.asking.reward, self.asking.named, part, answers[: len(part)])
            is_cut_N = self.sampler.is_cut(rollout)[: len(part)]
            rollout = Rollout(*(x[: len(part)] for x in rollout))._replace(reward_B=reward_N)
            parts.append((len(part), summarised(rollout, is_cut_N)))
        return {
            f"held_out_{name}": sum(count * one[name] for count, one in parts) / len(held_out)
            for name in parts[0][1]
        }


def summarised(rollout: Rollout, is_cut_N: np.ndarray) -> dict[str, float]:
    """What is logged of the answers of a rollout."""
    return {
        "reward": float(np.mean(rollout.reward_B)),
        "accuracy": float(np.mean(rollout.reward_B >= RIGHT)),
        "answer_length": float(np.mean(rollout.answer_B)),
        "cut_off": float(np.mean(is_cut_N)),
    }


def _loop(built: _Built, state: PolicyState, step: int, signals: list[int]) -> int:
    """To the last iteration, or to the one after which a signal has come. Returns that one."""
    config, progress, stopping = built.config, built.progress, False
    with progress:
        if step == 0 and built.asking.held_out:
            numbers = built.evaluated(state)
            progress.say(f"before: held-out accuracy {numbers['held_out_accuracy']:.3f}")
            for tracker in built.trackers:
                tracker.write({"step": 0, **numbers})
        while step < config.steps and not stopping:
            rollout, numbers = built.rollout(state, step)
            measured = {}
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                measured = built.represent(state.trained, built.frozen, rollout)
            state, metrics = built.update(
                state, built.reference, built.frozen, rollout, np.int32(step)
            )
            step += 1
            metrics = {**numbers, **metrics, **measured}
            progress.step(step, metrics)
            if built.trace.step(metrics, progress.pause):
                progress.say(f"iteration {step:,}: traced into {built.trace.folder}")
            stopping = cluster.should_stop(step, bool(signals))
            is_last = step == config.steps
            if built.asking.held_out and (is_last or step % config.eval_every == 0):
                numbers = built.evaluated(state)
                accuracy = numbers["held_out_accuracy"]
                progress.say(f"iteration {step:,}: held-out accuracy {accuracy:.3f}")
                progress.evaluated(numbers)
            if is_last or stopping or step % config.save_every == 0:
                progress.flush()
                _save(built, state, step)
        built.trace.close(state)
    return step


def _build(
    config: TrainConfig,
    run_dir: Path,
    launch: Launch,
    asking: Asking,
    tokenizer: Tokenizer,
    checkpoints: Checkpoints,
) -> tuple[_Built, PolicyState, int]:
    """What the loop runs with, the state of the newest checkpoint or of the beginning, and the
    iterations behind it."""
    policy = config.policy
    assert policy is not None
    model = fitting(
        config.model,
        rows=config.batch_size,
        sequence=asking.most + policy.max_new_tokens,
        trained=None if config.lora is None else 0,
    )
    config = dataclasses.replace(config, model=model)
    optimizer, updates = schedule_of(config)
    tx = make_optimizer(optimizer, steps=updates)
    graphdef, shapes = nnx.split(
        nnx.eval_shape(lambda: Griffin(config.model, rngs=nnx.Rngs(0))), nnx.Param
    )
    params, frozen = run.initial_params(config, shapes, None), ()
    if config.lora is not None:
        base = nnx.merge(graphdef, params)
        graphdef, params, frozen = lora.split(lora.adapt(base, config.lora, seed=config.seed))
    reference = jax.tree.map(jnp.copy, params)  # of adapters, those that change nothing yet
    trained = {"policy": params}
    if policy.method == "ppo":
        trained["value"] = value_head(config.model.width)
    state = PolicyState(trained, tx.init(trained), jnp.zeros((), jnp.int32))
    state, step = _restored(checkpoints, state, config)
    judge = Judge(graphdef, vocab_size=tokenizer.vocab_size, answer=policy.max_new_tokens)

    def represent(trained: Any, frozen: Any, rollout: Rollout) -> dict[str, jax.Array]:
        return representation(judge, trained, frozen, rollout, size=config.batch_size)

    trackers = open_trackers(config, run_dir, launch, step)
    progress = TrainingProgress(
        trackers,
        Stopwatch(items_per_step=policy.rollout, unit="answers", devices=jax.devices()[:1]),
        steps=config.steps,
        log_every=config.log_every,
        skip_limit=config.skip_limit,
        headline="reward",
        step=step,
        skipped=int(state.skipped),
        skipped_in_a_row=run.skipped_in_a_row(run_dir, step),
    )
    built = _Built(
        config=config,
        policy=policy,
        asking=asking,
        sampler=Sampler(
            graphdef,
            config.model,
            tokenizer,
            most=asking.most,
            max_new_tokens=policy.max_new_tokens,
            stop_ids=asking.stop_ids,
        ),
        update=make_update(config, judge, tx, learning_rate_schedule(optimizer, updates)),
        represent=jax.jit(represent),
        reference=reference,
        frozen=frozen,
        trackers=trackers,
        progress=progress,
        trace=Trace(run_dir, launch.profile),
        checkpoints=checkpoints,
    )
    return built, state, step


def schedule_of(config: TrainConfig) -> tuple[OptimConfig, int]:
    """The optimizer, whose warm-up counts updates (in the config it counts iterations), and the
    updates of the run."""
    assert config.policy is not None
    updates = config.policy.updates(config.batch_size)
    optimizer = config.optimizer
    warmup = optimizer.warmup_steps * updates
    return dataclasses.replace(optimizer, warmup_steps=warmup), config.steps * updates


def _stored(state: PolicyState, config: TrainConfig) -> tuple[Any, Any]:
    """Parameters and all else, by canonical name."""
    others = {"optimizer": state.opt_state}
    if "value" in state.trained:
        others["value"] = state.trained["value"]
    return per_layer.unstacked((state.trained["policy"], others), config.model)


def _save(built: _Built, state: PolicyState, step: int) -> None:
    params, others = _stored(state, built.config)
    built.checkpoints.save(
        step,
        params,
        opt_state=others,
        data_state={
            "skipped": int(state.skipped),
            "skipped_in_a_row": built.progress.skipped_in_a_row,
        },
    )


def _restored(
    checkpoints: Checkpoints, fresh: PolicyState, config: TrainConfig
) -> tuple[PolicyState, int]:
    """The state of the newest checkpoint, and its iteration; before the first, `fresh` and 0."""
    like = jax.eval_shape(lambda: _stored(fresh, config))
    restored = checkpoints.restore(params_like=like[0], opt_state_like=like[1])
    if restored is None:
        return fresh, 0
    others = {"optimizer": fresh.opt_state}
    if "value" in fresh.trained:
        others["value"] = fresh.trained["value"]
    params, others = per_layer.stacked(
        (restored.params, restored.opt_state),
        (fresh.trained["policy"], others),
        config.model,
    )
    trained = {**others, "policy": params}
    opt_state = trained.pop("optimizer")
    skipped = jnp.int32((restored.data_state or {}).get("skipped", 0))
    return PolicyState(trained, opt_state, skipped), restored.step
