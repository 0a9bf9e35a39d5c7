"""What is kept, what is found again, and what goes first."""

import jax
import numpy as np
import pytest

from recurrentgemma.state import State
from serving.features.prefix_cache import PrefixCache, prefix_keys, state_bytes

TOKENS = np.arange(100, dtype=np.int32)


def state(number: int) -> State:
    """Of 8 + 1000 bytes."""
    layer = (jax.numpy.full((1, 250), number, jax.numpy.float32),)
    zero_B = jax.numpy.zeros(1, jax.numpy.int32)
    return State(zero_B, zero_B.astype(jax.numpy.uint32), (layer,))  # type: ignore[arg-type]


SIZE = state_bytes(state(0))


def number(kept: State | None) -> int:
    assert kept is not None
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(kept))
    return int(kept.layers[0][0][0, 0])


def test_keys_are_of_all_tokens_up_to_a_chunk_of_a_model():
    keys = prefix_keys("a", TOKENS, 16)
    assert len(keys) == 6  # of 96 tokens
    assert len(set(keys)) == 6
    assert prefix_keys("a", TOKENS[:50].tolist(), 16) == keys[:3]
    changed = TOKENS.copy()
    changed[20] += 1
    assert [a == b for a, b in zip(prefix_keys("a", changed, 16), keys, strict=True)] == [
        True,
        *[False] * 5,
    ]
    assert not set(prefix_keys("b", TOKENS, 16)) & set(keys)
    assert not set(prefix_keys("a", TOKENS, 32)) & set(keys)


def test_the_longest_beginning_is_found():
    keys, cache = prefix_keys("a", TOKENS, 16), PrefixCache(device_bytes=10 * SIZE)
    assert cache.longest(keys) == (0, None)
    for n in (1, 3):
        cache.put(keys[n], state(n))
    count, kept = cache.longest(keys)
    assert (count, number(kept)) == (4, 3)
    count, kept = cache.longest(keys[:3])
    assert (count, number(kept)) == (2, 1)
    assert cache.longest(keys[:1]) == (0, None)
    assert cache.longest([]) == (0, None)


@pytest.mark.parametrize("host", [0, 2])
def test_the_least_recently_used_goes_first(host):
    cache = PrefixCache(device_bytes=2 * SIZE, host_bytes=host * SIZE)
    keys = prefix_keys("a", TOKENS, 16)
    for n in (0, 1):
        cache.put(keys[n], state(n))
    cache.longest(keys[:1])  # 0 is used, and 1 is now the oldest
    cache.put(keys[2], state(2))
    assert (cache.bytes("device"), cache.bytes("host")) == (2 * SIZE, min(host, 1) * SIZE)
    assert [key in cache for key in keys[:3]] == [True, host > 0, True]
    count, kept = cache.longest(keys[:2])
    assert (count, number(kept)) == ((2, 1) if host else (1, 0))
    assert cache.bytes("device") == 2 * SIZE
    for n in (3, 4, 5):
        cache.put(keys[n], state(n))
    assert len(cache) == 2 + host
    assert cache.bytes("host") == host * SIZE
    cache.clear()
    assert (len(cache), cache.bytes("device"), cache.bytes("host")) == (0, 0, 0)


def test_one_that_does_not_fit_is_kept_on_the_host_or_not_at_all():
    (key, *_) = prefix_keys("a", TOKENS, 16)
    nowhere = PrefixCache(device_bytes=SIZE - 1)
    nowhere.put(key, state(0))
    assert len(nowhere) == 0
    host = PrefixCache(device_bytes=0, host_bytes=SIZE)
    host.put(key, state(7))
    assert number(host.longest([key])[1]) == 7
    assert host.bytes("host") == SIZE
