# SPDX-License-Identifier: Apache-2.0
"""The three classification MDPs of 2303.01486: ten states, ten actions, a state is seen as an image
of its class.

    easy      reward 1 if the action is the image's class; the next state is drawn uniformly
    hard      the same with a random label of each image in place of its class
    sparse    reward 1 in the last state for its own action; the action that is the state's number
              leads to the next state (after the last the first), any other to a random one

Transitions are drawn afresh, states and actions uniformly: as from a buffer of a random policy.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class MDP:
    """Which of them, in numbers (1 or 0), so that all three run as one program."""

    random_labels: float = 0.0
    chain: float = 0.0


MDPS = {"easy": MDP(), "hard": MDP(random_labels=1.0), "sparse": MDP(chain=1.0)}


class Transitions(NamedTuple):
    """Numbers of images in place of observations."""

    image_B: jax.Array
    action_B: jax.Array
    reward_B: jax.Array
    next_image_B: jax.Array


def labels(mdp: MDP, true_N: jax.Array, classes: int, key: jax.Array) -> jax.Array:
    """The label of each image: its class, or of the hard MDP a random one."""
    random_N = jax.random.randint(key, true_N.shape, 0, classes, true_N.dtype)
    return jnp.where(jnp.asarray(mdp.random_labels) > 0, random_N, true_N)


def transitions(
    mdp: MDP,
    labels_N: jax.Array,
    of_class_CM: jax.Array,
    true_N: jax.Array,
    key: jax.Array,
    batch_size: int,
) -> Transitions:
    """A batch. of_class_CM: by class, the numbers of its images."""
    classes, per_class = of_class_CM.shape
    state_key, image_key, action_key, next_key, next_image_key = jax.random.split(key, 5)

    def images_of(state_B: jax.Array, key: jax.Array) -> jax.Array:
        return of_class_CM[state_B, jax.random.randint(key, (batch_size,), 0, per_class)]

    state_B = jax.random.randint(state_key, (batch_size,), 0, classes)
    image_B = images_of(state_B, image_key)
    action_B = jax.random.randint(action_key, (batch_size,), 0, classes)
    next_B = jax.random.randint(next_key, (batch_size,), 0, classes)
    chain = jnp.asarray(mdp.chain) > 0
    own_B = action_B == true_N[image_B]
    reward_B = jnp.where(
        chain, own_B & (true_N[image_B] == classes - 1), action_B == labels_N[image_B]
    )
    onward_B = (true_N[image_B].astype(next_B.dtype) + 1) % classes
    next_B = jnp.where(chain & own_B, onward_B, next_B)
    return Transitions(
        image_B, action_B, reward_B.astype(jnp.float32), images_of(next_B, next_image_key)
    )
