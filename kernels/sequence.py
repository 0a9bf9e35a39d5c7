# SPDX-License-Identifier: Apache-2.0
"""A sequence cut over the devices of a mesh axis: what each device needs of those before it.

Every function here is called inside `jax.shard_map`, by all devices of the axis, with equal parts
of the sequence in the axis' order. A recurrence needs one state, an operation that looks back n
tokens needs n tokens.
"""

import jax
import jax.numpy as jnp


def alike(axis: str, *arrays: jax.Array) -> tuple:
    """The arrays, marked as differing over every mesh axis over which one of them, or the sequence,
    does (jax.shard_map with check_vma keeps books of that)."""
    known = [jax.typeof(x).mat.varying for x in arrays]
    if not any(known):  # check_vma=False: there are no books
        return arrays
    wanted = frozenset({axis}).union(*known)
    return tuple(
        jax.lax.pcast(x, tuple(wanted - axes), to="varying") if wanted - axes else x
        for x, axes in zip(arrays, known, strict=True)
    )


def check_not_reference(op: str, implementation: str | None) -> None:
    """Raises ValueError: the references know whole sequences only."""
    if implementation == "reference":
        raise ValueError(f"{op}: implementation 'reference' is of whole sequences; take another")


def carry_in(
    a_BE: jax.Array, b_BE: jax.Array, h0_BE: jax.Array, axis: str, *, reverse: bool = False
) -> jax.Array:
    """The state that enters each device's part, where a part turns h into a h + b.

    h0 enters the first part (reversed: the last one); of the others it is not read. A scan over the
    devices by doubling: about log2(n) + 1 exchanges of two [B, E] arrays with one neighbour each.
    """
    count, index = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
    if reverse:
        index = count - 1 - index
    b_BE = jnp.where(index == 0, a_BE * h0_BE + b_BE, b_BE)
    distance = 1
    while distance < count:
        before_a_BE, before_b_BE = _from_before((a_BE, b_BE), axis, distance, reverse)
        inside = index >= distance
        b_BE = b_BE + jnp.where(inside, a_BE * before_b_BE, 0)
        a_BE = jnp.where(inside, a_BE * before_a_BE, a_BE)
        distance *= 2
    return jnp.where(index == 0, h0_BE, _from_before(b_BE, axis, 1, reverse))


def tokens_before(
    x_BTX: jax.Array, past: int, axis: str, first_BPX: jax.Array | None = None
) -> jax.Array:
    """The P = past tokens just before each device's part, [B, P, ...], from as many devices before
    it as that takes. `first` holds those before the sequence (default: zeros), equal everywhere."""
    count, index = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
    part = x_BTX.shape[1]
    parts: list[jax.Array] = []
    for distance in range(1, min(-(-past // part), count - 1) + 1):
        needed = min(part, past - (distance - 1) * part)
        parts.insert(0, _from_before(x_BTX[:, part - needed :], axis, distance, False))
    missing = past - sum(x.shape[1] for x in parts)
    zero_BMX = jnp.zeros((x_BTX.shape[0], missing, *x_BTX.shape[2:]), x_BTX.dtype)
    before_BPX = jnp.concatenate([*alike(axis, zero_BMX, x_BTX)[:1], *parts], 1)
    if first_BPX is None:
        return before_BPX
    slot_P = jnp.arange(past)  # `index` parts lie between the state and this part
    moved_BPX = jnp.take(first_BPX, jnp.minimum(slot_P + index * part, past - 1), axis=1)
    mine_P = (slot_P < past - index * part).reshape(1, past, *[1] * (x_BTX.ndim - 2))
    return jnp.where(mine_P, moved_BPX.astype(x_BTX.dtype), before_BPX)


def take_tokens(x_BTX: jax.Array, past_BPX: jax.Array, index_BN: jax.Array, axis: str) -> jax.Array:
    """Tokens [B, N, ...] by their index in the P tokens of `past` (equal everywhere) followed by
    the whole sequence, of which x is this device's part; equal on all devices of the axis."""
    part, past = x_BTX.shape[1], past_BPX.shape[1]
    local_BN = index_BN - past - jax.lax.axis_index(axis) * part
    mine = _expand((local_BN >= 0) & (local_BN < part), x_BTX)
    local = _expand(jnp.clip(local_BN, 0, part - 1), x_BTX)
    taken = jnp.where(mine, jnp.take_along_axis(x_BTX, local, 1), 0)
    before = _expand(jnp.minimum(index_BN, past - 1), x_BTX)
    older = jnp.take_along_axis(past_BPX.astype(x_BTX.dtype), before, 1)
    return jnp.where(_expand(index_BN < past, x_BTX), older, jax.lax.psum(taken, axis))


def _expand(v_BN: jax.Array, like: jax.Array) -> jax.Array:
    return v_BN.reshape(*v_BN.shape, *[1] * (like.ndim - 2))


def of_last(x: jax.Array, axis: str) -> jax.Array:
    """The last device's value, on every device."""
    last = jax.lax.axis_index(axis) == jax.lax.axis_size(axis) - 1
    return jax.lax.psum(jnp.where(last, x, 0), axis)


def _from_before(x, axis: str, distance: int, reverse: bool):
    """x of the device `distance` places before (reversed: after) in the sequence; 0 where there is
    none."""
    pairs = [(i, i + distance) for i in range(jax.lax.axis_size(axis) - distance)]
    if reverse:
        pairs = [(after, before) for before, after in pairs]
    return jax.lax.ppermute(x, axis, pairs)
