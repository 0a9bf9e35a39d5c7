# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""Does the real PEFT mean what we read into its adapters?

It needs PyTorch, so this runs in an environment of its own (a minute after the installation):

    python3 -m venv PEFT && PEFT/bin/pip install torch==2.13.0 transformers peft && \\
        PEFT/bin/pip install . && PEFT/bin/python tests/peers/adapters.py

Expected: one line a check, each with a difference of logits below 2e-5 in float32, or `refused`.

1. Every field of PEFT's LoraConfig stands in our tables (tests/checkpoints/test_peft_json.py), with
   PEFT's own default, and so does every init_lora_weights.
2. For each init_lora_weights and each field taken that can be set on a small RecurrentGemma: PEFT
   makes the adapters, all of them are moved a little, as training does, and saved; the base with
   these adapters has the same logits here and there. PiSSA, OLoRA and the like are refused by name.
3. What we write as PEFT's is loaded by PEFT, with the same logits.
"""

import argparse
import dataclasses
import sys
import tempfile
import typing
from pathlib import Path

if __name__ == "__main__":  # before what only its own environment has
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()

import jax.numpy as jnp
import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM, RecurrentGemmaConfig, RecurrentGemmaForCausalLM

from checkpoints import adapters
from checkpoints.load import load_checkpoint
from checkpoints.peft_json import CHANGES_BASE, INIT
from tests.checkpoints.test_peft_json import DEFAULTS, REFUSED, TAKEN

TOLERANCE = 2e-5
LAYERS = ["linear_x", "linear_out", "q_proj", "o_proj", "up_proj", "down_proj"]
TOKENS = np.arange(24, dtype=np.int32).reshape(2, 12)


def main() -> int:
    check_fields()
    torch.manual_seed(0)
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        config = RecurrentGemmaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=96, num_hidden_layers=3, lru_width=40,
            num_attention_heads=4, num_key_value_heads=1,
            attention_window_size=16,
        )  # fmt: skip
        RecurrentGemmaForCausalLM(config).save_pretrained(base)
        cases: dict[str, dict] = {
            f"init_lora_weights={v!r}": {"init_lora_weights": v} for v in INIT
        }
        cases |= {v: {"init_lora_weights": v} for v in ("pissa", "pissa_niter_4", "olora")}
        cases |= {f: {f: TAKEN[f]} for f in ("layers_to_transform", "lora_dropout")}
        cases |= {"exclude_modules": {"exclude_modules": "up_proj"}}
        cases |= {"ensure_weight_tying": {"ensure_weight_tying": True}}
        cases |= {"alora": {"alora_invocation_tokens": [3, 4]}, "use_dora": {"use_dora": True}}
        for name, options in cases.items():
            folder = Path(scratch) / name
            tuned = train(base, folder, options)
            try:
                model, _, _ = load_checkpoint(folder)
            except ValueError as error:
                if next(iter(options)) not in str(error):
                    raise
                print(f"{name:36} refused")
                continue
            assert not name.startswith((*CHANGES_BASE, "alora", "use_dora")), name
            logits, _ = model(jnp.asarray(TOKENS))
            worst = max(worst, report(name, np.abs(np.asarray(logits) - logits_of(tuned)).max()))
        worst = max(worst, report("ours, read by PEFT", read_by_peft(base, Path(scratch) / "ours")))
    print(f"worst: {worst:.1e}, allowed: {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


def check_fields() -> None:
    """Our tables against LoraConfig."""
    written = peft.LoraConfig().to_dict()
    written["peft_type"] = written["peft_type"].value
    changed = {n for n in written.keys() | DEFAULTS.keys() if written.get(n) != DEFAULTS.get(n)}
    assert changed <= {"peft_version"}, f"defaults that differ: {changed}"
    fields = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}
    known = TAKEN.keys() | REFUSED.keys() | {"peft_type", "init_lora_weights"}
    assert fields.keys() == known, fields.keys() ^ known
    hints = typing.get_type_hints(peft.LoraConfig)["init_lora_weights"]
    words = {word for hint in typing.get_args(hints) for word in typing.get_args(hint)}
    for word in words:
        assert word in INIT or word.startswith(tuple(CHANGES_BASE)), word
    print(f"peft {peft.__version__}: {len(fields)} fields and {len(words)} starts are known")


def train(base: Path, folder: Path, options: dict) -> peft.PeftModel:
    """Save adapters that PEFT made and that were moved a little; the model with them there."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=LAYERS, task_type="CAUSAL_LM", **options
    )
    tuned = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    tuned.save_pretrained(folder)
    return tuned


def read_by_peft(base: Path, folder: Path) -> float:
    """How far PEFT's logits are from ours, with adapters that we write."""
    generator = np.random.default_rng(0)
    pairs = {
        "blocks.0/mlp_block/ffw_up": (
            generator.normal(size=(32, 2)),
            generator.normal(size=(2, 48)),
        ),
        "blocks.2/attention_block/proj_q": (
            generator.normal(size=(32, 2)),
            generator.normal(size=(2, 32)),
        ),
    }
    pairs = {n: (a.astype(np.float32), b.astype(np.float32)) for n, (a, b) in pairs.items()}
    adapters.write(folder, adapters.Adapters(folder, pairs, 2, 3.0, str(base)))
    tuned = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    logits, _ = load_checkpoint(folder)[0](jnp.asarray(TOKENS))
    return float(np.abs(np.asarray(logits) - logits_of(tuned)).max())


def logits_of(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(TOKENS).long(), use_cache=False).logits.numpy()


def report(name: str, difference: float) -> float:
    print(f"{name:36} max |difference of logits| {difference:.1e}", flush=True)
    return float(difference)


if __name__ == "__main__":
    sys.exit(main())
