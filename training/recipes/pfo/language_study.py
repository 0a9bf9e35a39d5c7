# SPDX-License-Identifier: Apache-2.0
"""2405.00662 on a language model: a small Griffin that was first shown examples learns to copy
words from rewards, by PPO with and without PFO and KL and by GRPO, with few epochs on each rollout
and with many.

Each cell is two runs as `griffin finetune` has them, the second from a checkpoint of the first:
both are kept while they go on, and the same command goes on with them. Arms of a seed share the
model that was shown examples; it is taken as soon as it answers some prompts right.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from checkpoints.store import STEPS, all_steps
from eval.intervals import t_interval
from recurrentgemma.config import GriffinConfig
from recurrentgemma.generation.lm import load
from recurrentgemma.params import flat_params
from recurrentgemma.presets import tiny
from training.configs import TrainConfig
from training.data.config import DataConfig
from training.finetuning.policy_config import PolicyConfig
from training.finetuning.policy_run import train_policy
from training.launch import Launch
from training.loop import train
from training.observe.metrics import read_metrics
from training.optim import OptimConfig
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings
from training.recipes.findings import Arms, as_numbers
from training.recipes.pfo.conclusions import curves, ends
from training.recipes.pfo.language_tasks import Examples, rows, write
from training.run_folder import METRICS

ENDS = ("examples_for", "before", "after")
LAUNCH = Launch(devices=1, tensorboard=False)
NAMES = {
    "reward": "reward",
    "kl_reference": "KL from the starting model, nats a token",
    "excess_ratio": "excess ratio",
    "clipped": "share of tokens outside of the clip",
    "pca_rank": "PCA rank (99%) of the final features",
    "pre_activation_norm": "norm of what the final norm reads",
    "entropy": "entropy, nats a token",
    "answer_length": "tokens of an answer",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageArm:
    """The model is shown `examples` until it answers a share `start` of the prompts of `trial`
    right, for base_steps steps at most; then it is asked for `iterations` rollouts. Prompts,
    examples, trial and those held out are different ones."""

    task: str = "copying"
    method: Literal["ppo", "grpo"] = "ppo"
    epochs: int = 4
    pfo: float = 0.0
    kl: float = 0.0
    width: int = 64
    layers: int = 3
    examples: int = 2000
    base_steps: int = 1000
    base_every: int = 25
    """Steps from one trial to the next."""
    start: float = 0.25
    """Seeds differ in when they learn to copy: after 400 steps one had 0.33, another 0.996."""
    trial: int = 128
    prompts: int = 4000
    held_out: int = 512
    max_new_tokens: int = 12
    iterations: int = 80
    rollout: int = 1024
    """With 256, rewards rose and accuracy fell (docs/log.md)."""
    batch_size: int = 256
    learning_rate: float = 2e-4
    warmup: int = 5
    """Iterations of warm-up: without, accuracy fell at first (docs/log.md)."""
    value_coefficient: float = 1.0
    """With 0.1 the values explained nothing of the rewards after 30 iterations at 1e-4."""

    def model(self) -> GriffinConfig:
        """Over bytes."""
        return dataclasses.replace(
            tiny(),
            vocab_size=261,
            width=self.width,
            mlp_width=2 * self.width,
            lru_width=self.width,
            num_layers=self.layers,
            num_heads=2,
            head_dim=self.width // 2,
            num_gate_blocks=2,
            attention_window=32,
        )


def base_config(arm: LanguageArm, examples: Path, seed: int) -> TrainConfig:
    """Of the run on examples."""
    return TrainConfig(
        model=arm.model(),
        optimizer=OptimConfig(learning_rate=3e-3, warmup_steps=min(50, arm.base_steps // 4)),
        data=DataConfig(sources=(f"chat:{examples}?prompt=prompt&response=answer&template=none",)),
        tokenizer="bytes",
        steps=arm.base_steps,
        batch_size=16,
        sequence_length=128,
        seed=seed,
        log_every=100,
        save_every=arm.base_every,
        keep=arm.base_steps // arm.base_every + 1,
    )


def first_able(base: Path, arm: LanguageArm, trial: Examples) -> int:
    """The first step of the run on examples that has a share arm.start of `trial` right; the last
    one, if none has."""
    questions = [row["prompt"] for row in trial]
    model, steps = None, sorted(all_steps(base))
    for step in steps:
        saved = load(base / STEPS / str(step))
        model = model.with_params(flat_params(saved.model)) if model else saved
        answers = model.generate(questions, max_tokens=arm.max_new_tokens)
        right = sum(
            answer.strip() == row["answer"] for answer, row in zip(answers, trial, strict=True)
        )
        if right >= arm.start * len(trial):
            return step
    return steps[-1]


def policy_run_config(arm: LanguageArm, start: Path, data: Path, seed: int) -> TrainConfig:
    """Of the run on rewards, from the checkpoint `start`."""
    group = 8 if arm.method == "grpo" else 1
    return TrainConfig(
        model=arm.model(),
        optimizer=OptimConfig(
            learning_rate=arm.learning_rate,
            warmup_steps=arm.warmup,
            final_fraction=1.0,
            weight_decay=0.0,
            beta2=0.999,
        ),
        tokenizer="bytes",
        init_from=str(start),
        policy=PolicyConfig(
            method=arm.method,
            prompts=(str(data / "prompts.jsonl"),),
            held_out=(str(data / "held_out.jsonl"),),
            plain=True,
            rollout=arm.rollout,
            group_size=group,
            epochs=arm.epochs,
            max_new_tokens=arm.max_new_tokens,
            kl=arm.kl,
            pfo=arm.pfo,
            value_coefficient=arm.value_coefficient,
        ),
        steps=arm.iterations,
        batch_size=arm.batch_size,
        sequence_length=64,
        seed=seed,
        log_every=1,
        eval_every=max(1, arm.iterations // 4),
        save_every=max(1, arm.iterations // 4),
    )


def measure(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """`measured`: what each iteration logs, by name; `before` and `after`: the accuracy on prompts
    that are held out, of the likeliest answers; `steps`: iterations; `examples_for`: steps on
    examples before them."""
    starts: dict[tuple[Path, float], int] = {}
    for cell in cells:
        arm: LanguageArm = cell.choices
        base = folder / f"base-{arm.task}-{arm.width}-{arm.base_steps}-{cell.seed}"
        data = folder / f"data-{arm.task}-{cell.seed}"
        sizes = (arm.examples, arm.prompts, arm.held_out, arm.trial)
        *parts, trial = rows(arm.task, sizes, seed=cell.seed)
        for name, part in zip(("examples", "prompts", "held_out"), parts, strict=True):
            write(data / f"{name}.jsonl", part)
        run_dir = folder / f"{cell.arm}-{cell.seed}".replace("/", "_").replace(" ", "_")
        is_over = train(base_config(arm, data / "examples.jsonl", cell.seed), base, LAUNCH)
        if not is_over:
            raise KeyboardInterrupt  # a signal stopped it; the same command goes on
        if (base, arm.start) not in starts:
            starts[base, arm.start] = first_able(base, arm, trial)
        step = starts[base, arm.start]
        config = policy_run_config(arm, base / STEPS / str(step), data, cell.seed)
        if not train_policy(config, run_dir, LAUNCH):
            raise KeyboardInterrupt
        before, *records = read_metrics(run_dir / METRICS)
        yield (
            cell,
            {
                "measured": {name: [record[name] for record in records] for name in NAMES},
                "before": before["held_out_accuracy"],
                "after": records[-1]["held_out_accuracy"],
                "steps": arm.iterations,
                "examples_for": step,
            },
        )
        shutil.rmtree(run_dir)
    shutil.rmtree(folder)


def conclude(arms: Arms) -> Findings:
    """A table of accuracies and of every number at the end of each arm, and curves of them."""
    table = {
        arm: {
            **{name: t_interval([cell[name] for cell in cells]) for name in ENDS},
            **{name: ends(cells, name) for name in NAMES},
        }
        for arm, cells in arms.items()
    }
    words = "; ".join(
        f"{arm}: accuracy {of['before'].mean:.3f} to {of['after'].mean:.3f}, rank "
        f"{of['pca_rank'].mean:.3g}, excess ratio {of['excess_ratio'].mean:.3g}, KL "
        f"{of['kl_reference'].mean:.3g}"
        for arm, of in table.items()
    )
    return Findings(
        f"held-out accuracy before and after, and means of the last iterations. {words}.",
        {
            "ends": {
                arm: {name: as_numbers(one) for name, one in of.items()}
                for arm, of in table.items()
            }
        },
        [findings.interval_table("Before and at the end of training", "arm", table)],
        {name: curves(arms, name, title=NAMES[name], xlabel="iterations") for name in NAMES},
    )


def language_arms(*, epochs: Sequence[int], **sizes: Any) -> dict[str, LanguageArm]:
    """PPO of so many epochs x {none, PFO, KL}, and GRPO of the fewest and the most."""
    terms = {"none": {}, "PFO": {"pfo": 1.0}, "KL": {"kl": 0.04}}
    ppo = {
        f"{count}/{name}": LanguageArm(epochs=count, **term, **sizes)
        for count in epochs
        for name, term in terms.items()
    }
    ends_of = sorted({min(epochs), max(epochs)})
    grpo = {f"{n}/GRPO": LanguageArm(method="grpo", epochs=n, **sizes) for n in ends_of}
    return ppo | grpo


LANGUAGE = Experiment(
    name="language",
    question="does PFO steady the rewards of a small Griffin over many epochs, and does KL?",
    cost="about three hours on two cores, an estimate",
    arms=language_arms(epochs=(2, 8)),
    measure_in=measure,
    conclude=conclude,
    seeds=3,
)
