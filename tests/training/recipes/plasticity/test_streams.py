# SPDX-License-Identifier: Apache-2.0
"""What changes from task to task, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.drawn import normal
from training.recipes.plasticity.streams import Stream, Task, shown, task

TRUE_N = jnp.asarray(np.random.default_rng(0).integers(0, 10, 400), jnp.int32)
PIXELS_NP = normal(1, (400, 16))


def tasks(stream: Stream, count: int = 3, seed: int = 0) -> list[Task]:
    stream_tasks, before_N = [], TRUE_N
    for number in range(count):
        one = task(
            *(stream, jax.random.key(seed), jnp.asarray(number), before_N),
            true_N=TRUE_N,
            pixels_NP=PIXELS_NP,
            classes=10,
        )
        stream_tasks.append(one)
        before_N = one.labels_N
    return stream_tasks


def test_a_fraction_of_the_labels_is_drawn_anew():
    first, second, _ = tasks(Stream(kind="labels", fraction=0.25))
    assert np.mean(first.labels_N == TRUE_N) < 0.2  # all random from the first task on
    changed = np.mean(first.labels_N != second.labels_N)
    assert 0.15 < changed < 0.30  # one of ten is drawn as it was
    assert (tasks(Stream(kind="labels", fraction=0.25))[1].labels_N == second.labels_N).all()
    assert (tasks(Stream(kind="labels"), seed=1)[0].labels_N != first.labels_N).any()


def test_classes_and_pixels_change_places():
    first, second, _ = tasks(Stream(kind="classes"))
    pairs = set(zip(TRUE_N.tolist(), second.labels_N.tolist(), strict=True))
    assert len(pairs) == 10
    assert (first.labels_N != second.labels_N).any()
    places_P = tasks(Stream(kind="pixels"))[1].places_P
    assert sorted(places_P.tolist()) == [*range(16)]
    assert (tasks(Stream(kind="pixels"))[1].labels_N == TRUE_N).all()
    images = PIXELS_NP[:5].reshape(5, 4, 4, 1)
    moved = shown(Stream(kind="pixels"), images, places_P)
    np.testing.assert_array_equal(moved.reshape(5, -1), PIXELS_NP[:5, places_P])
    assert shown(Stream(kind="labels"), images, places_P) is images
    both = tasks(Stream(kind="composite"))[1]
    assert (both.places_P != jnp.arange(16)).any()
    assert (both.labels_N != TRUE_N).any()


def test_targets_grow_and_lose_their_offset_at_the_end():
    stream = Stream(kind="targets", tasks=3, growth=2.0, offset=5.0, last_offset=False)
    first, second, last = (one.values_N for one in tasks(stream))
    np.testing.assert_allclose([first.mean(), second.mean(), last.mean()], [5, 5, 0], atol=0.5)
    assert float(second.std() / first.std()) > 1.7
    assert float(jnp.abs(last).max()) <= 4
    kept = tasks(Stream(kind="targets", tasks=3, offset=5.0))[2].values_N
    assert abs(float(kept.mean()) - 5) < 0.3
