# SPDX-License-Identifier: Apache-2.0
"""Settings that a model preset is pretrained with, each with its source.

    python -m training.pretraining     the tables of docs/training.md

Nothing here was swept by us at these sizes, and the Griffin paper prints no learning rate, batch
size or warm-up. What it prints is taken from it; the rest is a rule that others fitted on
Transformers and published, at the compute of each size. The numbers stand below as they are used;
a test computes them again from the rule.
"""

import dataclasses
import math
import textwrap

from kernels.measure.command import options
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import flops_per_token
from recurrentgemma.presets import PRESETS
from training.optim import OptimConfig

WARMUP, WARMUP_SHARE = 2000, 20  # steps of warm-up, but at most a twentieth of the run

SOURCES = {
    "tokens": "Griffin paper (arXiv 2402.19427), table 2: about 20 a parameter, as in Chinchilla; "
    "RecurrentGemma: its paper (arXiv 2404.07839), section 2",
    "sequence length": "Griffin paper, section 3.1; RecurrentGemma paper, section 2",
    "learning rate": "DeepSeek LLM (arXiv 2401.02954), equation 1: 0.3118 C^-0.125, where C is the "
    "training FLOPs without those of the embedding; fitted on Transformers",
    "batch": "the same: 0.292 C^0.3271 tokens, here the nearest power of two of rows",
    "schedule": "WSD, the last fifth of the steps linearly down to a tenth: DeepSeek LLM, section "
    "2.3, keeps the maximum for 80% of the tokens and ends at a tenth; a fifth is enough "
    "and as good as a cosine by Hägele et al. (arXiv 2405.18392)",
    "warm-up": "2,000 steps, DeepSeek LLM, section 2.3; that it is at most a twentieth of the run "
    "is a choice of ours",
    "optimizer": "AdamW as in the Griffin paper, section 3.1; beta 0.9 and 0.95, weight decay 0.1, "
    "gradients clipped to 1: DeepSeek LLM, section 2.3",
    "what decays": "RecurrentGemma paper, section 2: not the RG-LRU; embeddings, norms and biases "
    "neither, as in DeepMind's fine-tuning code",
    "bfloat16": "Griffin paper, section 4.1: activations; parameters and moments are float32 here",
    "vocabulary": "the tokenizer's, rounded up to a multiple of 128 for each device of the tensor "
    "axis, as Megatron-LM does",
}
"""By setting: where it is from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How one size is trained. A batch is `batch_size` rows of `sequence_length` tokens."""

    tokens: int
    batch_size: int
    learning_rate: float
    sequence_length: int = 2048

    def steps(self, batch_size: int, sequence_length: int) -> int:
        """In which the tokens are read, in batches of this size."""
        return max(1, round(self.tokens / max(1, batch_size * sequence_length)))

    def optimizer(self, steps: int) -> OptimConfig:
        """Of a run of so many steps."""
        return OptimConfig(
            learning_rate=self.learning_rate,
            warmup_steps=min(WARMUP, steps // WARMUP_SHARE),
            schedule="wsd",
            decay_fraction=0.2,
            final_fraction=0.1,
            beta1=0.9,
            beta2=0.95,
            weight_decay=0.1,
            clip_norm=1.0,
        )


SIZES = {
    "100m": Pretraining(tokens=1_900_000_000, batch_size=128, learning_rate=1.7e-3),
    "200m": Pretraining(tokens=3_900_000_000, batch_size=128, learning_rate=1.5e-3),
    "400m": Pretraining(tokens=7_800_000_000, batch_size=256, learning_rate=1.2e-3),
    "1b": Pretraining(tokens=25_000_000_000, batch_size=512, learning_rate=9.1e-4),
    "3b": Pretraining(tokens=60_000_000_000, batch_size=1024, learning_rate=7.4e-4),
    "7b": Pretraining(tokens=132_500_000_000, batch_size=2048, learning_rate=6.0e-4),
    "14b": Pretraining(tokens=300_000_000_000, batch_size=4096, learning_rate=5.0e-4),
}
"""Griffin, Hawk and the MQA Transformer of a size, which the paper trains alike."""

SETTINGS = {name: SIZES[name.split("_")[1]] for name in PRESETS if name.split("_")[-1] in SIZES} | {
    "recurrentgemma_2b": Pretraining(
        tokens=2_000_000_000_000, batch_size=1024, learning_rate=4.9e-4, sequence_length=8192
    ),
    "recurrentgemma_9b": Pretraining(
        tokens=2_000_000_000_000, batch_size=1024, learning_rate=4.2e-4, sequence_length=8192
    ),
}
"""By model preset; `tiny`, which is for first steps, has none."""


def model_to_pretrain(name: str) -> GriffinConfig:
    """The preset's model as it is trained: computed in bfloat16, its layers scanned, recomputing
    as little as fits. Its vocabulary is a placeholder until the tokenizer is known (start.py)."""
    return dataclasses.replace(PRESETS[name](), dtype="bfloat16", scan_layers=True, remat="auto")


def compute(config: GriffinConfig, settings: Pretraining) -> float:
    """C of the rule: FLOPs of all training, without those of the embedding."""
    per_token = flops_per_token(config, settings.sequence_length)["training"]
    return (per_token - 6.0 * config.vocab_size * config.width) * settings.tokens


def rule(config: GriffinConfig, settings: Pretraining) -> tuple[float, float]:
    """(learning rate, tokens a batch) by DeepSeek LLM's equation 1."""
    c = compute(config, settings)
    return 0.3118 * c**-0.125, 0.2920 * c**0.3271


def rounded_vocabulary(ids: int, tensor: int = 1) -> int:
    """Embeddings for so many ids, where the tensor axis has so many devices."""
    return math.ceil(ids / (128 * tensor)) * 128 * tensor


def tables() -> str:
    """The settings of all presets, and the sources, in Markdown."""
    rows = [
        "| preset | tokens | tokens a batch | rows | length | steps | warm-up | learning rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sizes: dict[str, list[str]] = {}
    for name in SETTINGS:
        family, size = name.split("_")
        sizes.setdefault("rg" + size if family == "recurrentgemma" else size, []).append(name)
    for names in sizes.values():
        settings = SETTINGS[names[0]]
        size = names[0].split("_")[1]
        families = ", ".join(name.split("_")[0] for name in names)
        shown = f"`{families}_{size}`" if len(names) == 1 else f"`*_{size}`: {families}"
        steps = settings.steps(settings.batch_size, settings.sequence_length)
        batch = settings.batch_size * settings.sequence_length
        cells = [shown, f"{settings.tokens / 1e9:,g}B", f"{batch:,}", f"{settings.batch_size:,}"]
        cells += [f"{settings.sequence_length:,}", f"{steps:,}"]
        cells += [f"{settings.optimizer(steps).warmup_steps:,}", f"{settings.learning_rate:g}"]
        rows.append(f"| {' | '.join(cells)} |")
    for name, source in SOURCES.items():
        rows += ["", textwrap.fill(f"**{name}**: {source}.", 100, break_on_hyphens=False)]
    return "\n".join(rows)


if __name__ == "__main__":
    options(__doc__).parse_args()
    print(tables())
