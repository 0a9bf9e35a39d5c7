# SPDX-License-Identifier: Apache-2.0
r"""DPO beside TRL's on transformers' RecurrentGemma (tests/peers/dpo.py): the same weights, pairs
and AdamW; losses and rewards of each step, and its time.

    python -m training.bench.dpo_bench --peer PEERS/bin/python
    python -m training.bench.dpo_bench --peer PEERS/bin/python --width 256 --layers 6 --rounds 3

The two take turns, a process of theirs for one of our runs; the times are medians of the steps of
all rounds but the first two of each, in float32, on --threads of theirs and all cores of ours.
"""

import dataclasses
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from checkpoints import store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params
from training.finetuning.preference_batches import PreferenceBatch, longest_parts, rows_of
from training.finetuning.preference_config import PreferenceConfig
from training.finetuning.preference_losses import Preferred
from training.finetuning.preferences import Answer, Preference
from training.optim import OptimConfig, make_optimizer
from training.retention.objective import Kept
from training.small_griffin import small_griffin
from training.step import init_train_state, make_train_step

REFERENCE = Path("tests/peers/dpo.py")
COMPARED = ("loss", "reward_chosen", "reward_rejected", "accuracy", "grad_norm")
FIRST = 2  # steps that compile, or allocate


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpoArguments:
    peer: str | None = None
    """A Python with TRL."""
    base: Path | None = None
    """A checkpoint to start from; by default a random one of --width and --layers."""
    width: int = 128
    layers: int = 3
    pairs: int = 4
    """In a batch."""
    prompt: int = 48
    """Tokens of a prompt, about; an answer has half as many."""
    steps: int = 20
    rounds: int = 1
    learning_rate: float = 1e-4
    beta: float = 0.1
    threads: int = 2
    """Of the peer."""
    out: Path | None = None
    """Keep here what both of them read and wrote."""


def model_config(width: int, layers: int) -> GriffinConfig:
    """A small RecurrentGemma."""
    small = small_griffin(width, layers, vocab_size=261, window=1024)
    return dataclasses.replace(small, scale_embeddings=True, logits_soft_cap=30.0)


def draw_pairs(count: int, prompt: int, vocab_size: int) -> list[dict[str, list[int]]]:
    """Token ids of prompts and two answers each, of lengths that differ."""
    rng = np.random.default_rng(0)

    def ids(length: float) -> list[int]:
        size = max(2, int(rng.normal(length, length / 6)))
        return rng.integers(5, vocab_size, size).tolist()

    return [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(prompt / 2), "rejected_ids": ids(prompt / 2)}
        for _ in range(count)
    ]


def preference(number: int, pair: dict[str, list[int]]) -> Preference:
    """A pair as a run has it."""
    start = len(pair["prompt_ids"])
    answers = [
        Answer(np.array(pair["prompt_ids"] + pair[f"{which}_ids"], np.int32), start, sign)
        for which, sign in (("chosen", 1), ("rejected", -1))
    ]
    return Preference(f"pair {number}", tuple(answers))


def train(
    model: Griffin, pairs: list[dict[str, list[int]]], settings: dict[str, Any]
) -> dict[str, list[float]]:
    """Our steps over the pairs in their order: what each logs, and its seconds."""
    graphdef, params = nnx.split(model, nnx.Param)
    start = jax.tree.map(jnp.copy, params)
    optimizer = OptimConfig(
        learning_rate=settings["learning_rate"],
        warmup_steps=0,
        final_fraction=1.0,
        beta2=0.999,
        weight_decay=0.0,
        clip_norm=settings["clip_norm"],
    )
    step = make_train_step(
        graphdef,
        make_optimizer(optimizer, steps=settings["steps"]),
        objective=Preferred(PreferenceConfig(beta=settings["beta"]), graphdef),
    )
    state = init_train_state(
        jax.tree.map(jnp.copy, params), make_optimizer(optimizer, steps=settings["steps"])
    )
    examples = [preference(number, pair) for number, pair in enumerate(pairs)]
    prompt, length = (-(-longest // 8) * 8 for longest in longest_parts(examples))
    log: dict[str, list[float]] = {name: [] for name in (*COMPARED, "seconds")}
    for number in range(settings["steps"]):
        began = time.perf_counter()
        first = number * settings["pairs"]
        rows = rows_of(
            examples[first : first + settings["pairs"]], prompt_length=prompt, length=length
        )
        batch = PreferenceBatch(*map(jnp.asarray, rows))
        state, metrics = step(state, batch, (), Kept((), start))
        values = {name: float(metrics[name]) for name in COMPARED}
        log["seconds"].append(time.perf_counter() - began)
        for name, value in values.items():
            log[name].append(value)
    return log


def write(folder: Path, model: Griffin, pairs: list, settings: dict[str, Any]) -> None:
    """What the peer reads."""
    store.write(folder / "ours", dict(flat_params(model)), model.config)
    convert(folder / "ours", folder / "hf", "huggingface")
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "settings.json").write_text(json.dumps(settings))


def main() -> None:
    arguments = tyro.cli(DpoArguments, description=__doc__)
    settings: dict[str, Any] = {
        "steps": arguments.steps,
        "pairs": arguments.pairs,
        "learning_rate": arguments.learning_rate,
        "beta": arguments.beta,
        "clip_norm": 1.0,
    }
    if arguments.base is not None:
        model = load_checkpoint(arguments.base)[0]
    else:
        model = Griffin(model_config(arguments.width, arguments.layers), rngs=nnx.Rngs(0))
    count = arguments.steps * arguments.pairs
    pairs = draw_pairs(count, arguments.prompt, model.config.vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        write(folder, model, pairs, settings)
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(train(model, pairs, settings))
            if arguments.peer is not None:
                command = [arguments.peer, str(REFERENCE), str(folder)]
                subprocess.run([*command, "--threads", str(arguments.threads)], check=True)
                theirs.append(json.loads((folder / "trl.json").read_text()))
    own = statistics.median(s for log in ours for s in log["seconds"][FIRST:])
    losses = ours[0]["loss"]
    print(f"ours: {1e3 * own:.1f} ms a step; losses {losses[0]:.4f} to {losses[-1]:.4f}")
    if not theirs:
        return
    peer = statistics.median(s for log in theirs for s in log["seconds"][FIRST:])
    print(f"TRL: {1e3 * peer:.1f} ms a step; ours takes 1 / {peer / own:.1f} of it")
    for name in COMPARED:
        gap = np.abs(np.array(ours[0][name]) - np.array(theirs[0][name]))[1:].max()
        print(f"{name}: at most {gap:.2g} apart after the first of {settings['steps']} steps")


if __name__ == "__main__":
    main()
