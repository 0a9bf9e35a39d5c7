# SPDX-License-Identifier: Apache-2.0
"""The ranks of features, and the units that do nothing, of any function that gives activations.

    features = no_features(width)
    for x_ND in batches:
        features = add_features(features, x_ND)
    ranks(features)                              # {"pca_rank": ..., "effective_rank": ..., ...}

    units = units_of(z_NF, jax.nn.relu(z_NF))    # or add_units, batch by batch
    jnp.mean(dead(units)), jnp.mean(positive(units))

Batches are accumulated, so that all rows together never exist. Of features that is the factor R of
their QR decomposition: its singular values are theirs. (Their second moment R^T R would do, but it
squares them: in float32 all below 3e-4 of the largest would be lost, and with them srank, effective
and numerical rank.) Everything is a pure function of arrays, and may be vmapped over seeds.

Ranks as in "No Representation, No Trust" (arXiv 2405.00662): the features are not centred. Shape
letters: N rows (tokens, examples), D features, F units.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from recurrentgemma.errors import UserError

PCA_SHARE = 0.99  # of the squared singular values
SRANK_SHARE = 0.99  # of the singular values (Kumar et al., 2021; delta 0.01)
FEATURE_EPS = 0.01  # of a singular value over sqrt(N) (Lyle et al., 2022)
DORMANT = 0.025  # tau of Sokar et al., 2023
NEAR_DEAD = 1e-3  # of the median unit's largest activation
LINEAR_R2 = 0.99
GELU_OPEN, GELU_CLOSED = 2.0, -3.0  # where GELU is the identity, or nothing, to half a percent


class Features(NamedTuple):
    """What has been seen of features. R^T R is the sum of x x^T over the rows x."""

    count: jax.Array  # int32, rows
    factor_DD: jax.Array  # R, float32
    norm: jax.Array  # mean over the rows of their L2 norm


class Units(NamedTuple):
    """What has been seen of units: of the pre-activation z and of the activation a of each."""

    count: jax.Array  # int32, rows
    low_F: jax.Array  # least z
    high_F: jax.Array  # largest z
    mean_F: jax.Array  # of z
    square_F: jax.Array  # sum of (z - its mean)^2
    out_mean_F: jax.Array  # of a
    out_square_F: jax.Array  # sum of (a - its mean)^2
    product_F: jax.Array  # sum of (z - its mean) (a - its mean)
    out_size_F: jax.Array  # mean of |a|
    out_most_F: jax.Array  # largest |a|
    norm: jax.Array  # mean over the rows of the L2 norm of z


def no_features(width: int) -> Features:
    """Of no rows."""
    return Features(jnp.zeros((), jnp.int32), jnp.zeros((width, width), jnp.float32), jnp.zeros(()))


def add_features(features: Features, x_ND: jax.Array, real_N: jax.Array | None = None) -> Features:
    """With the rows of a batch. real_N: False for rows that do not count, such as padding."""
    x_ND = x_ND.astype(jnp.float32)
    rows = jnp.asarray(x_ND.shape[0], jnp.int32)
    if real_N is not None:
        x_ND = jnp.where(real_N[:, None], x_ND, 0)
        rows = jnp.sum(real_N, dtype=jnp.int32)
    factor_DD = jnp.linalg.qr(jnp.concatenate([features.factor_DD, x_ND]), mode="r")
    count = features.count + rows
    norms = jnp.sum(jnp.linalg.norm(x_ND, axis=1))
    share = 1 / jnp.maximum(count, 1).astype(jnp.float32)
    norm = features.norm * features.count.astype(jnp.float32) * share + norms * share
    return Features(count, factor_DD, norm)


def features_of(x_ND: jax.Array) -> Features:
    """Of one array."""
    return add_features(no_features(x_ND.shape[1]), x_ND)


def ranks(features: Features) -> dict[str, jax.Array]:
    """All ranks by name: float32 scalars.

    Raises UserError: there are fewer rows than features, of which no rank can be told from N.
    (Where the count is traced, inside of jit, they are NaN then.)
    """
    width = features.factor_DD.shape[-1]
    if not isinstance(features.count, Tracer):
        check_rows(int(features.count), width)
    sigma_D = singular_values(features)
    count = features.count.astype(jnp.float32)
    named = {
        "pca_rank": pca_rank(sigma_D),
        "effective_rank": effective_rank(sigma_D),
        "srank": srank(sigma_D),
        "feature_rank": feature_rank(sigma_D, count),
        "numerical_rank": numerical_rank(sigma_D, count),
    }
    known = (features.count >= width) & jnp.all(jnp.isfinite(sigma_D))
    return {name: jnp.where(known, rank, jnp.nan) for name, rank in named.items()}


def check_rows(rows: int, width: int, *, what: str = "features") -> None:
    """Raises UserError: too few rows to tell a rank."""
    if rows < width:
        raise UserError(
            f"{rows:,} rows (tokens, or examples) for a rank of {width:,} {what}: the rank of so "
            f"few is at most their number; give at least {width:,}, better {2 * width:,}"
        )


def singular_values(features: Features) -> jax.Array:
    """Of the rows seen, the largest first."""
    return jnp.linalg.svd(features.factor_DD, compute_uv=False)


def pca_rank(sigma_D: jax.Array, share: float = PCA_SHARE) -> jax.Array:
    """The smallest k whose k largest have this share of the sum of squares; 0 if all are 0."""
    return _smallest(jnp.square(sigma_D), share)


def srank(sigma_D: jax.Array, share: float = SRANK_SHARE) -> jax.Array:
    """The smallest k whose k largest have this share of the sum (Kumar et al., 2021)."""
    return _smallest(sigma_D, share)


def effective_rank(sigma_D: jax.Array) -> jax.Array:
    """e to the entropy of sigma / sum(sigma) (Roy and Vetterli, 2007); 0 if all are 0."""
    whole = jnp.sum(sigma_D)
    share_D = sigma_D / jnp.where(whole > 0, whole, 1)
    entropy = jnp.sum(jax.scipy.special.entr(share_D))
    return jnp.where(whole > 0, jnp.exp(entropy), 0)


def feature_rank(sigma_D: jax.Array, count: jax.Array, eps: float = FEATURE_EPS) -> jax.Array:
    """How many are above eps sqrt(N) (Lyle et al., 2022)."""
    return _number(sigma_D > eps * jnp.sqrt(count))


def numerical_rank(sigma_D: jax.Array, count: jax.Array) -> jax.Array:
    """How many are above what rounding to float32 leaves, as torch.linalg.matrix_rank counts."""
    size = jnp.maximum(count, sigma_D.shape[-1])
    return _number(sigma_D > jnp.max(sigma_D) * size * jnp.finfo(jnp.float32).eps)


def _smallest(values_D: jax.Array, share: float) -> jax.Array:
    whole = jnp.sum(values_D)
    fewer = _number(jnp.cumsum(values_D) < share * whole)
    return jnp.where(whole > 0, jnp.minimum(fewer + 1, values_D.shape[-1]), 0)


def _number(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, dtype=jnp.float32)


def no_units(width: int) -> Units:
    """Of no rows."""
    nothing = jnp.zeros((1, width))
    return units_of(nothing, nothing, jnp.zeros((1,), bool))


def units_of(z_NF: jax.Array, a_NF: jax.Array, real_N: jax.Array | None = None) -> Units:
    """Of one batch: pre-activations and activations. real_N: False for rows that do not count."""
    z_NF, a_NF = z_NF.astype(jnp.float32), a_NF.astype(jnp.float32)
    real_N1 = jnp.ones((z_NF.shape[0], 1), bool) if real_N is None else real_N[:, None]
    count = jnp.sum(real_N1, dtype=jnp.int32)
    share = 1 / jnp.maximum(count, 1).astype(jnp.float32)

    def added(x_NF: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(real_N1, x_NF, 0), 0)

    mean_F, out_mean_F = added(z_NF) * share, added(a_NF) * share
    from_mean_NF, out_from_mean_NF = z_NF - mean_F[None], a_NF - out_mean_F[None]
    return Units(
        count=count,
        low_F=jnp.min(jnp.where(real_N1, z_NF, jnp.inf), 0),
        high_F=jnp.max(jnp.where(real_N1, z_NF, -jnp.inf), 0),
        mean_F=mean_F,
        square_F=added(jnp.square(from_mean_NF)),
        out_mean_F=out_mean_F,
        out_square_F=added(jnp.square(out_from_mean_NF)),
        product_F=added(from_mean_NF * out_from_mean_NF),
        out_size_F=added(jnp.abs(a_NF)) * share,
        out_most_F=jnp.max(jnp.where(real_N1, jnp.abs(a_NF), 0), 0),
        norm=jnp.sum(jnp.where(real_N1[:, 0], jnp.linalg.norm(z_NF, axis=1), 0)) * share,
    )


def add_units(
    units: Units, z_NF: jax.Array, a_NF: jax.Array, real_N: jax.Array | None = None
) -> Units:
    """With the rows of a batch, as units_of."""
    both = jax.tree.map(lambda *parts: jnp.stack(parts), units, units_of(z_NF, a_NF, real_N))
    return joined_units(both)


def joined_units(parts: Units) -> Units:
    """Of several parts of the rows, stacked along a first axis, all rows (Chan et al., 1979)."""
    count = jnp.sum(parts.count, dtype=jnp.int32)
    share_P = parts.count.astype(jnp.float32) / jnp.maximum(count, 1).astype(jnp.float32)
    rows_P1 = parts.count.astype(jnp.float32)[:, None]

    def mean(x_PF: jax.Array) -> jax.Array:
        return jnp.sum(x_PF * share_P[:, None], 0)

    mean_F, out_mean_F = mean(parts.mean_F), mean(parts.out_mean_F)
    off_PF, out_off_PF = parts.mean_F - mean_F[None], parts.out_mean_F - out_mean_F[None]

    def added(sum_PF: jax.Array, between_PF: jax.Array) -> jax.Array:
        return jnp.sum(sum_PF + rows_P1 * between_PF, 0)

    return Units(
        count=count,
        low_F=jnp.min(parts.low_F, 0),
        high_F=jnp.max(parts.high_F, 0),
        mean_F=mean_F,
        square_F=added(parts.square_F, jnp.square(off_PF)),
        out_mean_F=out_mean_F,
        out_square_F=added(parts.out_square_F, jnp.square(out_off_PF)),
        product_F=added(parts.product_F, off_PF * out_off_PF),
        out_size_F=mean(parts.out_size_F),
        out_most_F=jnp.max(parts.out_most_F, 0),
        norm=jnp.sum(parts.norm * share_P),
    )


def dead(units: Units) -> jax.Array:
    """Bool [F]: the activation is exactly 0 in every row. Of ReLU: no gradient comes in."""
    return units.out_most_F == 0


def negative(units: Units) -> jax.Array:
    """Bool [F]: z <= 0 in every row. Of ReLU: dead; of a leaky or smooth one: all in its tail."""
    return units.high_F <= 0


def positive(units: Units) -> jax.Array:
    """Bool [F]: z > 0 in every row, so that ReLU is the identity: linearised ("zombie") units."""
    return units.low_F > 0


def linearised(units: Units, r2: float = LINEAR_R2) -> jax.Array:
    """Bool [F]: a straight line through (z, a) explains more than r2 of a, for any activation. A
    unit whose activation never changes is none. The paper (2402.18762) gives no definition for
    smooth activations: this one is ours."""
    explained_F = jnp.square(units.product_F)
    return (units.out_square_F > 0) & (explained_F > r2 * units.square_F * units.out_square_F)


def dormant(units: Units, tau: float = DORMANT) -> jax.Array:
    """Bool [F]: mean |a| is at most tau of the layer's (Sokar et al., 2023)."""
    return units.out_size_F <= tau * jnp.mean(units.out_size_F)


def near_dead(units: Units, tau: float = NEAR_DEAD) -> jax.Array:
    """Bool [F]: the largest |a| is at most tau of the median unit's. For units that have no exact
    zero, as those of a gated GELU."""
    return units.out_most_F <= tau * jnp.median(units.out_most_F)


def constant(units: Units, std: float = 1e-3) -> jax.Array:
    """Bool [F]: the activation hardly varies: dead units of tanh (arXiv 2405.00662)."""
    rows = jnp.maximum(units.count, 1).astype(jnp.float32)
    return jnp.sqrt(units.out_square_F / rows) < std


def gelu_open(units: Units) -> jax.Array:
    """Bool [F]: z > 2 in every row, where GELU is the identity: a gate that is linearised."""
    return units.low_F > GELU_OPEN


def gelu_closed(units: Units) -> jax.Array:
    """Bool [F]: z < -3 in every row, where GELU lets nothing through."""
    return units.high_F < GELU_CLOSED


def spread(units: Units) -> jax.Array:
    """Float [F]: the standard deviation of z over the rows."""
    return jnp.sqrt(units.square_F / jnp.maximum(units.count, 1).astype(jnp.float32))


def energy(units: Units) -> jax.Array:
    """Float [F]: the sum of a^2 over the rows."""
    rows = units.count.astype(jnp.float32)
    return units.out_square_F + rows * jnp.square(units.out_mean_F)


def norm(x: jax.Array) -> jax.Array:
    """The L2 norm of all elements, in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))


def update_ratio(param: jax.Array, update: jax.Array) -> jax.Array:
    """|update| / |parameter|, the effective learning rate; NaN where the parameter is 0."""
    size = norm(param)
    return jnp.where(size > 0, norm(update) / jnp.where(size > 0, size, 1), jnp.nan)
