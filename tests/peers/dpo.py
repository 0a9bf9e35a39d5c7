# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
r"""DPO by TRL on transformers' RecurrentGemma, from weights and pairs that are given.

    python3 -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 transformers==5.24.0 trl==1.16.0 accelerate
    PEERS/bin/python tests/peers/dpo.py FOLDER

training/bench/dpo_bench.py writes FOLDER (a checkpoint in Hugging Face's format, pairs.json with
the token ids of each prompt and its two answers, settings.json) and compares what this writes into
FOLDER/trl.json: loss and rewards of every step, and its seconds. Pairs are taken in their order.

TRL's own output head reads the soft cap of logits by Gemma 2's name for it, and so leaves
RecurrentGemma's out (1.16); here the config says it by both names.
"""

import argparse

if __name__ == "__main__":  # before what only its own environment has
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

import json
import time
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

NAMES = {
    "loss": "loss",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "accuracy": "rewards/accuracies",
    "grad_norm": "grad_norm",
}


class InOrder(DPOTrainer):
    """Of pairs that are token ids already, in their order."""

    def _prepare_dataset(self, dataset, *_args, **_kwargs):
        return dataset

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)


class Clock(TrainerCallback):
    """When each step began and ended."""

    def __init__(self):
        self.seconds, self._began = [], 0.0

    def on_step_begin(self, *_args, **_kwargs):
        self._began = time.perf_counter()

    def on_step_end(self, *_args, **_kwargs):
        self.seconds.append(time.perf_counter() - self._began)


def main() -> None:
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.folder)
    settings = json.loads((folder / "settings.json").read_text())
    pairs = json.loads((folder / "pairs.json").read_text())

    def model():
        loaded = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
        loaded.config.final_logit_softcapping = loaded.config.logits_soft_cap
        return loaded

    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=settings["pairs"],
        max_steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=settings["clip_norm"],
        beta=settings["beta"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=None,
    )
    clock = Clock()
    trainer = InOrder(
        model=model(),
        ref_model=model(),
        args=config,
        train_dataset=Dataset.from_list(pairs),
        processing_class=words,
        data_collator=DataCollatorForPreference(pad_token_id=0),
        callbacks=[clock],
    )
    trainer.train()
    log = [record for record in trainer.state.log_history if "loss" in record]
    result = {name: [float(record[key]) for record in log] for name, key in NAMES.items()}
    (folder / "trl.json").write_text(json.dumps({**result, "seconds": clock.seconds}))


if __name__ == "__main__":
    main()
