# SPDX-License-Identifier: Apache-2.0
"""A Griffin that has learned the language of scenes' captions, without a picture: what a text tower
may begin with. Things and colours are drawn at random, those combinations too that no scene to
train on has.

    params, nats = caption_model(griffin, words, SceneConfig(), length=24, steps=3000, seed=0)
    nnx.update(tower.griffin, params)
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.config import GriffinConfig
from training.recipes.sparc.scenes import COLOURS, RELATIONS, Part, SceneConfig, told
from training.recipes.sparc.step import Settings, make_tx
from training.recipes.sparc.text import GriffinText, GriffinTextConfig
from training.recipes.sparc.words import WordVocabulary

UNSEEN = np.zeros((0, 0), bool)  # of a part that is drawn nowhere


def drawn_caption(names: Sequence[str], config: SceneConfig, rng: np.random.Generator) -> str:
    """What a scene of that config might say."""
    place = config.says == "place"
    count = 2 if place else int(rng.integers(config.things[0], config.things[1] + 1))
    things = rng.choice(len(names), count, replace=False)
    colours = rng.choice(list(COLOURS), count, replace=False)
    parts = [
        Part(
            names[int(thing)],
            str(colour) if config.coloured else "",
            UNSEEN,
            number < (config.mentioned or count),
        )
        for number, (thing, colour) in enumerate(zip(things, colours, strict=True))
    ]
    return told(parts, str(rng.choice(RELATIONS)) if place else "")


def caption_model(
    griffin: GriffinConfig,
    words: WordVocabulary,
    config: SceneConfig,
    *,
    length: int,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int,
) -> tuple[nnx.State, float]:
    """The Griffin's parameters after so many steps of next-token prediction, and the nats per token
    of the last tenth of them. length: tokens of the longest caption."""
    tower = GriffinText(GriffinTextConfig(griffin=griffin, length=length), rngs=nnx.Rngs(seed))
    tx = make_tx(Settings(steps=steps, learning_rate=learning_rate, warmup_steps=steps // 20))
    graphdef, params = nnx.split(tower, nnx.Param)

    def loss(params: Any, ids_BL: jax.Array) -> jax.Array:
        model, mask_BL = nnx.merge(graphdef, params), ids_BL > 0
        forward_BLD = model(ids_BL, mask_BL).forward_BLD
        assert forward_BLD is not None
        return model.language_loss(forward_BLD, ids_BL, mask_BL)

    @jax.jit
    def step(params: Any, opt_state: Any, ids_BL: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, grads = jax.value_and_grad(loss)(params, ids_BL)
        updates, opt_state = tx.update(grads, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state, value

    rng, opt_state, losses = np.random.default_rng(seed), tx.init(params), []
    for _ in range(steps):
        ids_BL = np.zeros((batch_size, length), np.int32)
        for row in ids_BL:
            ids = words.encode(drawn_caption(words.names, config, rng))
            row[: len(ids)] = ids
        params, opt_state, value = step(params, opt_state, ids_BL)
        losses.append(value)
    tail = losses[-max(1, steps // 10) :]
    trained = nnx.merge(graphdef, params).griffin
    return nnx.state(trained, nnx.Param), float(np.mean(jax.device_get(tail)))
