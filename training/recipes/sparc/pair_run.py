# SPDX-License-Identifier: Apache-2.0
"""Towers trained on pictures and captions of a user's own: `griffin recipe sparc --train FOLDER
--pairs.source SPEC`. One process and all of its devices; killed, it goes on where it was.

The text tower is a Transformer, or a Griffin from a checkpoint with its own tokenizer. One pair in
twenty is not trained on, and is retrieved in the end.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from checkpoints.load import config_of, open_checkpoint, tokenizer_of
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig, make_mesh
from recurrentgemma.text.tokenizer import Tokenizer, tokenizer_fingerprint
from training.data.documents import load_named_tokenizer
from training.data.pairs import open_pairs
from training.data.pairs.loader import PairLoader, PairRows
from training.data.pairs.pair import Pair, PairSource
from training.recipes.rl.saved import Saved
from training.recipes.sparc import metrics
from training.recipes.sparc.batch import PairBatch, pair_batch
from training.recipes.sparc.method import mismatch_gap
from training.recipes.sparc.objectives import objective_of
from training.recipes.sparc.pair_options import PairOptions
from training.recipes.sparc.scene_arrays import scaled
from training.recipes.sparc.step import Settings, init_state, make_step, place_batch
from training.recipes.sparc.text import GriffinTextConfig, TransformerConfig
from training.recipes.sparc.towers import ImageText, PairConfig
from training.recipes.vision.vit import ViTConfig

HEADS = 4
HELD_OUT = 20  # one pair in so many is not trained on
MOST_HELD_OUT = 1000
LOGGED_EVERY = 50  # steps


def griffin_and_tokenizer(options: PairOptions) -> tuple[GriffinConfig | None, Tokenizer]:
    """Of the checkpoint, and its tokenizer; without one None, and a Transformer's.

    Raises UserError: either cannot be read, or the checkpoint has no tokenizer.
    """
    if not options.text:
        return None, load_named_tokenizer(options.tokenizer)
    config = config_of(options.text)
    tokenizer, _ = tokenizer_of(open_checkpoint(options.text), config.vocab_size)
    if tokenizer is None:
        raise UserError(f"{options.text} has no tokenizer: put its file beside the weights")
    return config, tokenizer


def towers(
    options: PairOptions,
    vocab_size: int,
    griffin: GriffinConfig | None,
    mixing: int | None = None,
) -> PairConfig:
    """Sizes of both. griffin: of the text tower, fresh; `begun` has a checkpoint's weights."""
    width, depth = options.width, options.depth
    image = ViTConfig(patch=options.patch, width=width, depth=depth, heads=HEADS, mixing=mixing)
    common: dict[str, Any] = {"length": options.length, "pooling": options.pooling}
    text: TransformerConfig | GriffinTextConfig
    if griffin is None:
        text = TransformerConfig(
            vocab_size=vocab_size, width=width, depth=depth, heads=HEADS, **common
        )
    else:
        whole = dataclasses.replace(griffin, dtype="float32", param_dtype="float32")
        text = GriffinTextConfig(griffin=whole, directions=options.directions, **common)
    return PairConfig(image=image, text=text, image_size=options.side, width=width)


def begun(options: PairOptions, config: PairConfig, seed: int) -> ImageText:
    """Both towers as they are before the first step."""
    text = config.text
    if isinstance(text, GriffinTextConfig):
        text = dataclasses.replace(text, checkpoint=options.text)
    return ImageText(dataclasses.replace(config, text=text), rngs=nnx.Rngs(seed))


class Some:
    """See PairSource: those of a source that are named."""

    def __init__(self, source: PairSource, rows_N: np.ndarray):
        self.spec, self._source, self._rows_N = source.spec, source, rows_N

    def __len__(self) -> int:
        return len(self._rows_N)

    def __getitem__(self, index: int) -> Pair:
        return self._source[int(self._rows_N[index])]

    def name(self, index: int) -> str:
        return self._source.name(int(self._rows_N[index]))


def divided(source: PairSource) -> tuple[Some, Some]:
    """Those to train on, and those to look at: one in twenty, evenly over the source.

    Raises UserError: there are fewer than twenty.
    """
    if len(source) < HELD_OUT:
        raise UserError(
            f"{source.spec!r} has {len(source)} pairs: expected at least {HELD_OUT}, of which one "
            "in so many is held out"
        )
    rows_N = np.arange(len(source))
    every = max(HELD_OUT, -(-len(source) // MOST_HELD_OUT))
    away_N = rows_N % every == every - 1
    return Some(source, rows_N[~away_N]), Some(source, rows_N[away_N])


def train(
    options: PairOptions,
    folder: Path,
    *,
    objective: str,
    local_weight: float,
    mixing: int | None = None,
    steps: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> tuple[Any, PairConfig, Tokenizer, dict[str, float]]:
    """The model's parameters, its config, its tokenizer, and what it does on pairs that it was not
    trained on: R@1 and R@5 both ways, and the mismatch gap in nats. folder: where the state is kept
    while it trains. mixing: as ViTConfig's.

    Raises UserError: a source, a checkpoint or a tokenizer cannot be read; too many pairs are
    unreadable; the devices do not divide the batch.
    """
    trained_on, looked_at = divided(open_pairs(options.source))
    griffin, tokenizer = griffin_and_tokenizer(options)
    config = towers(options, tokenizer.vocab_size, griffin, mixing)
    mesh = make_mesh(MeshConfig(data=jax.device_count())) if jax.device_count() > 1 else None
    settings = Settings(
        steps=steps,
        learning_rate=options.learning_rate,
        warmup_steps=min(1000, steps // 10),
        language_weight=options.language_weight,
    )
    chosen = objective_of(objective, local_weight=local_weight)
    graphdef, state = init_state(
        begun(options, config, seed), chosen, settings, mesh=mesh, seed=seed
    )
    step = make_step(graphdef, chosen, settings, mesh=mesh)
    reading: dict[str, Any] = {"side": options.side, "length": options.length}
    rows = PairLoader(
        trained_on,
        tokenizer.encode,
        batch_size=options.batch_size,
        seed=seed,
        workers=options.workers,
        **reading,
    )
    identity = {
        "options": dataclasses.asdict(options),
        "steps": steps,
        "seed": seed,
        "objective": [objective, local_weight, mixing],
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    saved = Saved(folder, identity)
    for other in folder.glob("*.safetensors"):
        if other != saved.path:
            raise UserError(
                f"{other} is of a training with other options: give the same as then, delete it, "
                "or name another folder"
            )
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    state, kept = saved.taken(state)
    state = jax.device_put(state, places)
    if kept:
        rows.restore(kept["rows"])
        say(f"goes on after step {int(state.step):,} of {steps:,}")
    for done in range(int(state.step) + 1, steps + 1):
        batch = batch_of(next(rows), config)
        state, logged = step(state, (batch if mesh is None else place_batch(mesh, batch),))
        if done % LOGGED_EVERY == 0 or done == steps:
            shown = ", ".join(f"{name} {float(value):.4g}" for name, value in logged.items())
            say(f"step {done:,} of {steps:,}: {shown}")
        saved.keep(state, {"rows": rows.state()}, at_once=done == steps)
    if rows.skipped:
        say(f"{rows.skipped:,} of {rows.read:,} pairs were left out: {'; '.join(rows.unreadable)}")
    if rows.cut:
        say(f"{rows.cut:,} of {rows.read:,} captions were cut to {options.length} tokens")
    params = jax.device_get(state.params["model"])
    batch_size = min(options.batch_size, len(looked_at))
    away = PairLoader(
        looked_at, tokenizer.encode, batch_size=batch_size, epochs=1, augments=False, **reading
    )
    batches = (batch_of(one, config) for one in away)
    return params, config, tokenizer, measured(graphdef, params, batches)


def batch_of(rows: PairRows, config: PairConfig) -> PairBatch:
    """All tokens of a caption are words: which are things is not known here."""
    return pair_batch(
        *(scaled(rows.images_BSS3), rows.ids_BL, rows.mask_BL),
        vocab_size=config.text.vocab_size,
        length=config.text.length,
    )


def measured(
    graphdef: nnx.GraphDef[ImageText], params: Any, batches: Iterator[PairBatch]
) -> dict[str, float]:
    """Of whole batches, which retrieval takes for one set."""

    @jax.jit
    def embed(params: Any, batch: PairBatch) -> Any:
        model = nnx.merge(graphdef, params)
        embeddings, _ = model(batch)
        gap = mismatch_gap(embeddings, model.scale())
        return embeddings.image_BD, embeddings.text_BD, gap

    images, texts, gaps = zip(*(embed(params, batch) for batch in batches), strict=True)
    image_ND, text_ND = np.concatenate(images), np.concatenate(texts)
    numbers = metrics.retrieval(image_ND, text_ND, np.arange(len(image_ND)))
    return {**numbers, "gap": float(np.mean(gaps)), "of pairs": float(len(image_ND))}
