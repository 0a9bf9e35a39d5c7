# SPDX-License-Identifier: Apache-2.0
"""A base, two conversations to learn, and the arguments and run of a fine-tuning on them."""

import dataclasses
import json
from pathlib import Path

from checkpoints import store
from checkpoints.convert import convert
from recurrentgemma.params import flat_params
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.drawn import untrained
from training.configs import TrainConfig
from training.finetuning.finetune_arguments import FinetuneArguments
from training.launch import Launch
from training.loop import train
from training.observe.metrics import read_metrics
from training.run_folder import METRICS

QUESTIONS = {"Capital of France?": "Paris", "Capital of Italy?": "Rome"}


def write_base(folder: Path, small: TrainConfig) -> Path:
    """A checkpoint of random parameters in Hugging Face's format, with a tokenizer."""
    config = dataclasses.replace(small.model, logits_soft_cap=30.0, scale_embeddings=True)
    model = untrained(config)
    store.write(folder / "ours", dict(flat_params(model)), config)
    ByteTokenizer().save(folder / "ours")
    convert(folder / "ours", folder / "hf", "huggingface")
    return folder / "hf"


def write_data(path: Path) -> Path:
    lines = [{"prompt": q, "response": a} for q, a in QUESTIONS.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_pairs(path: Path) -> Path:
    """Two preferences, twice: the capital, and another town."""
    lines = [
        {"prompt": q, "chosen": QUESTIONS[q], "rejected": other}
        for q, other in zip(QUESTIONS, ("Lyon", "Milan"), strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines * 2))
    return path


def arguments(base: Path | str, data: Path, run_dir: Path, **changes) -> FinetuneArguments:
    given = {
        "checkpoint": str(base),
        "data": (str(data),),
        "run_dir": run_dir,
        "batch_size": 8,
        "sequence_length": 32,
        "dtype": "float32",
        "remat": "none",
        "epochs": 200.0,
        "learning_rate": 1e-2,
    }
    return FinetuneArguments(**given | changes)


def run(prepared) -> float:
    """On one device, where it compiles soonest; test_lora_mesh.py has the mesh. The last loss."""
    assert train(prepared.config, prepared.run_dir, Launch(devices=1, tensorboard=False))
    return read_metrics(prepared.run_dir / METRICS)[-1]["loss"]
