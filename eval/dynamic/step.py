# SPDX-License-Identifier: Apache-2.0
"""One step of dynamic evaluation, pure: score a segment, learn from it, and the state after it.

    streams = start(split, choices, tx, 64)
    step = make_step(split.form, choices, tx)
    streams, scored = step(streams, split.frozen, anchor, segments, replayed)

One forward and backward pass gives the scores, the gradient and the model's state, all with the
parameters as they are; only then do these change. The state stays as it was computed, also when
they have changed ("stale", as Krause et al. have it). Each stream has parameters, optimizer and
state of its own, on a leading axis S; the frozen parameters and the anchor are shared.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from eval.dynamic.config import DynamicConfig
from eval.dynamic.optimizers import Anchor
from eval.dynamic.parameters import Form, Split
from eval.dynamic.retention import distance
from eval.dynamic.segments import Replayed, Segment
from recurrentgemma.config import GriffinConfig
from recurrentgemma.divergence import hidden_divergence
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import hidden_loss
from recurrentgemma.params import Flat
from recurrentgemma.state import State, init_state

STREAMS = P("streams")  # the one axis of a mesh here: streams have nothing to exchange


class Streams(NamedTuple):
    """All that a step changes, of S streams."""

    adapted: Flat
    opt_state: Any
    state: State | None
    """The model's, of all tokens before the next segment's overlap; None where each segment begins
    with an empty one."""
    gradients: Flat
    """Their sum since the last update; {} where every segment is followed by one."""
    gathered: jax.Array  # int32 [S], segments in that sum
    version: jax.Array  # int32 [S], updates so far
    good: Flat
    """The parameters that gave the last finite loss, and their version."""
    good_version: jax.Array
    stopped: jax.Array  # bool [S], the loss was not finite: nothing is learned any more
    teacher: State | None = None
    """The checkpoint's own state, where it reads the stream, too."""


class Scored(NamedTuple):
    """logp_SL: log-probability of each scored token, in nats. loss_S: what was learned from."""

    logp_SL: Any
    loss_S: Any
    stopped_S: Any


class Step(Protocol):
    """See make_step. `streams` is donated."""

    def __call__(
        self,
        streams: Streams,
        frozen: Any,
        anchor: Anchor,
        segment: Segment,
        replayed: Replayed | None = None,
    ) -> tuple[Streams, Scored]: ...

    def lower(self, *args: Any) -> jax.stages.Lowered: ...


def start(
    split: Split, choices: DynamicConfig, tx: optax.GradientTransformation, count: int
) -> Streams:
    """So many streams that have read nothing."""

    def spread(tree: Any) -> Any:  # without compiling anything; every array is a copy
        return jax.device_put(
            jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], count, 0), tree)
        )

    pretrained, zero = split.pretrained, np.zeros((), np.int32)
    summed = choices.learns and choices.update_every > 1
    return Streams(
        adapted=spread(pretrained),
        opt_state=spread(tx.init(pretrained)),
        state=spread(_fresh(split.form.config)) if choices.state == "carry" else None,
        gradients=spread(jax.tree.map(np.zeros_like, pretrained)) if summed else {},
        gathered=spread(zero),
        version=spread(zero),
        good=spread(pretrained),
        good_version=spread(zero),
        stopped=spread(zero > 0),
        teacher=spread(_fresh(split.form.config)) if choices.carries_teacher else None,
    )


def _fresh(config: GriffinConfig) -> State:
    """The state of one sequence that has seen nothing, as numpy arrays without a leading axis."""
    shapes = jax.eval_shape(lambda: init_state(config, 1))
    return jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), shapes)


def read(
    model: Griffin, choices: DynamicConfig, segment: Segment, state: State | None
) -> tuple[jax.Array, State | None]:
    """x_1MD of the targets of one stream's segment, and the state to keep."""
    tokens_1T, positions_1T = segment.tokens_T[None], segment.positions_T[None]
    size = choices.segment_length
    if choices.state == "reset":
        x_1TD, _ = model.hidden(tokens_1T, None, positions=positions_1T)
        state = None
    elif not choices.overlap:
        x_1TD, state = model.hidden(tokens_1T, state, positions=positions_1T)
    else:
        first_1LD, state = model.hidden(
            tokens_1T[:, :size], state, positions=positions_1T[:, :size]
        )
        second_1ND, _ = model.hidden(tokens_1T[:, size:], state, positions=positions_1T[:, size:])
        x_1TD = jnp.concatenate([first_1LD, second_1ND], 1)
    if not choices.overlap:  # all in their order; a CPU is slow at the gradient of picking
        return x_1TD, state
    return x_1TD[:, segment.index_M], state


def segment_loss(
    form: Form,
    choices: DynamicConfig,
    adapted: Flat,
    frozen: Any,
    segment: Segment,
    state: State | None,
    replayed: Replayed | None = None,
    *,
    anchor: Anchor | None = None,
    teacher_state: State | None = None,
) -> tuple[jax.Array, tuple[jax.Array, State | None, State | None]]:
    """(loss, (logp_L, state, the teacher's state)) of one stream; states are batches of one.
    anchor: what the retention losses compare with; without it there are none."""
    model = form.merge(adapted, frozen)
    x_1MD, state = read(model, choices, segment, state)
    weights_1M = segment.weights_M[None]
    loss, nll_1M, _ = hidden_loss(model, x_1MD, segment.targets_M[None], weights_1M)
    retain = "none" if anchor is None else choices.retain.method
    clones = anchor is not None and choices.replay.targets == "checkpoint"
    held: Any = anchor
    teacher: Any = form.merge(held.pretrained, frozen) if clones or retain == "kl" else None
    if replayed is not None:
        tokens_RL, positions_RL, targets_RL, weights_RL = replayed
        x_RLD, _ = model.hidden(tokens_RL, None, positions=positions_RL)
        if clones:
            theirs_RLD, _ = teacher.hidden(tokens_RL, None, positions=positions_RL)
            loss += hidden_divergence(model, x_RLD, teacher, theirs_RLD, weights_RL)[0]
        else:
            loss += hidden_loss(model, x_RLD, targets_RL, weights_RL)[0]
    if retain == "kl":
        theirs_1MD, teacher_state = read(teacher, choices, segment, teacher_state)
        kl, _ = hidden_divergence(model, x_1MD, teacher, theirs_1MD, weights_1M)
        loss += held.retain * kl
    elif retain != "none":
        loss += held.retain * distance(adapted, held.pretrained, held.fisher)
    return loss, (-nll_1M[0, : choices.segment_length], state, teacher_state)


@lru_cache(64)  # adapters of one model share their programs
def make_step(
    form: Form,
    choices: DynamicConfig,
    tx: optax.GradientTransformationExtraArgs,
    mesh: Mesh | None = None,
) -> Step:
    """The jitted step. With a mesh (its one axis is `streams`) the streams are divided over it.

    A stream whose loss is not finite gets the parameters back that gave the last finite one, keeps
    its state, and learns no more.
    """

    def one(streams: Streams, frozen: Any, anchor: Anchor, segment: Segment, replayed: Any):
        state = jax.tree.map(lambda x: x[None], streams.state)
        if not choices.learns:
            run = partial(segment_loss, form, choices)
            loss, (logp_L, state, _) = run(streams.adapted, frozen, segment, state, replayed)
            state = jax.tree.map(lambda x: x[0], state)
            return streams._replace(state=state), Scored(logp_L, loss, streams.stopped), {}
        theirs = jax.tree.map(lambda x: x[None], streams.teacher)
        run = partial(segment_loss, form, choices, anchor=anchor, teacher_state=theirs)
        (loss, (logp_L, state, theirs)), grads = jax.value_and_grad(run, has_aux=True)(
            streams.adapted, frozen, segment, state, replayed
        )
        stopped = streams.stopped | ~jnp.isfinite(loss)
        moves = ~stopped & jnp.any(segment.weights_M > 0)
        breaks = stopped & ~streams.stopped

        def where(condition: jax.Array, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)

        state = where(stopped, streams.state, jax.tree.map(lambda x: x[0], state))
        theirs = where(stopped, streams.teacher, jax.tree.map(lambda x: x[0], theirs))
        gathered = streams.gathered + moves.astype(jnp.int32)
        streams = streams._replace(
            state=state,
            teacher=theirs if choices.carries_teacher else None,
            gathered=gathered,
            stopped=stopped,
            adapted=where(breaks, streams.good, streams.adapted),
            version=jnp.where(breaks, streams.good_version, streams.version),
            good=where(moves, streams.adapted, streams.good),
            good_version=jnp.where(moves, streams.version, streams.good_version),
        )
        if choices.update_every > 1:
            grads = where(moves, grads, jax.tree.map(jnp.zeros_like, grads))
        return streams, Scored(logp_L, loss, stopped), grads

    def learn(streams: Streams, anchor: Anchor, grads: Flat) -> Streams:
        """One stream's update, where it is due."""
        due = (streams.gathered >= choices.update_every) & ~streams.stopped
        updates, opt_state = tx.update(grads, streams.opt_state, streams.adapted, anchor=anchor)
        adapted = optax.apply_updates(streams.adapted, updates)
        adapted, opt_state = jax.tree.map(
            lambda new, old: jnp.where(due, new, old),
            (adapted, opt_state),
            (streams.adapted, streams.opt_state),
        )
        due_1 = due.astype(jnp.int32)
        return streams._replace(
            adapted=adapted,
            opt_state=opt_state,
            gathered=jnp.where(due, 0, streams.gathered),
            version=streams.version + due_1,
        )

    def all_streams(streams, frozen, anchor, segment, replayed):
        mapped = jax.vmap(one, in_axes=(0, None, None, 0, 0))
        streams, scored, grads = mapped(streams, frozen, anchor, segment, replayed)
        if not choices.learns:
            return streams, scored
        update = jax.vmap(learn, in_axes=(0, None, 0))
        if choices.update_every == 1:
            return update(streams, anchor, grads), scored
        summed = jax.tree.map(jnp.add, streams.gradients, grads)
        due_S = streams.gathered >= choices.update_every

        def change(streams: Streams, summed: Flat) -> tuple[Streams, Flat]:
            mean = jax.tree.map(lambda g: g / choices.update_every, summed)
            kept = jax.tree.map(lambda g: _where_rows(due_S, jnp.zeros_like(g), g), summed)
            return update(streams, anchor, mean), kept

        streams, summed = jax.lax.cond(
            jnp.any(due_S), change, lambda *unchanged: unchanged, streams, summed
        )
        return streams._replace(gradients=summed), scored

    if mesh is not None:
        all_streams = jax.shard_map(
            all_streams,
            mesh=mesh,
            in_specs=(STREAMS, P(), P(), STREAMS, STREAMS),
            out_specs=(STREAMS, STREAMS),
            check_vma=False,
        )

    jitted = jax.jit(all_streams, donate_argnums=0)
    return jitted  # type: ignore[return-value]


@lru_cache(64)
def make_restart(tx: optax.GradientTransformation) -> Callable[..., Streams]:
    """restart(streams, pretrained, starts_S): where a document starts, the parameters are the
    checkpoint's again, and the optimizer's state as at first. `streams` is donated."""

    def restart(streams: Streams, pretrained: Flat, starts_S: jax.Array) -> Streams:
        def back(tree: Any, first: Any) -> Any:
            return jax.tree.map(lambda x, y: _where_rows(starts_S, y[None], x), tree, first)

        zero = jnp.zeros((), jnp.int32)
        return streams._replace(
            adapted=back(streams.adapted, pretrained),
            good=back(streams.good, pretrained),
            good_version=streams.version,
            opt_state=back(streams.opt_state, jax.tree.map(jnp.asarray, tx.init(pretrained))),
            gradients=jax.tree.map(
                lambda g: _where_rows(starts_S, jnp.zeros_like(g), g), streams.gradients
            ),
            gathered=back(streams.gathered, zero),
            stopped=back(streams.stopped, zero > 0),
        )

    return jax.jit(restart, donate_argnums=0)


def placed(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays with a leading axis of streams, divided over the mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, STREAMS))


def _where_rows(chosen_S: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(chosen_S.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
