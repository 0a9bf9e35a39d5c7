# SPDX-License-Identifier: Apache-2.0
"""The objectives by name: SPARC and its ablations, CLIP, FILIP, PACL, GLoRIA and MGCA.

    objective = OBJECTIVES["sparc"].weighing(local=5.0)
    loss, terms = objective(embeddings, scale, params)

An objective is terms and their weights. Your own is a value of the same kind; nothing looks it up.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax

from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.sparc import pairwise
from training.recipes.sparc.alignment import Weigh, dense_weights, softmax_weights, sparse_weights
from training.recipes.sparc.contrast import Averaging, global_contrast
from training.recipes.sparc.cross_attention import cross_attention_loss, init_projections
from training.recipes.sparc.embeddings import Embeddings
from training.recipes.sparc.method import local_loss

Term = Callable[[Embeddings, jax.Array, Any], jax.Array]
"""(embeddings, 1 / tau, the objective's own parameters) -> nats."""


def _nothing(key: jax.Array, width: int) -> Any:
    del key, width
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """init: (key, D) -> parameters of its own. weigh, averaging: of the mismatch gap, which is
    taken with SPARC's local loss whatever the objective is."""

    terms: Mapping[str, Term]
    weights: Mapping[str, float]
    init: Callable[[jax.Array, int], Any] = _nothing
    weigh: Weigh = sparse_weights
    averaging: Averaging = "caption"

    def __call__(
        self, embeddings: Embeddings, scale: jax.Array, params: Any = MappingProxyType({})
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The weighted sum of the terms, and each without its weight, nats."""
        terms = {name: term(embeddings, scale, params) for name, term in self.terms.items()}
        weighted = [self.weights[name] * term for name, term in terms.items()]
        return sum(weighted[1:], weighted[0]), terms

    def weighing(self, **weights: float) -> "Objective":
        """With other weights of some terms. Raises UserError: it has no such term."""
        for name in weights:
            if name not in self.weights:
                raise UserError(
                    f"the weight of {name!r}: this objective has "
                    f"{', '.join(map(repr, self.weights))}"
                )
        return dataclasses.replace(self, weights={**self.weights, **weights})


def _global(embeddings: Embeddings, scale: jax.Array, params: Any) -> jax.Array:
    del params
    return global_contrast(embeddings.image_BD, embeddings.text_BD, scale)


def _mgca(embeddings: Embeddings, scale: jax.Array, params: Any) -> jax.Array:
    return cross_attention_loss(embeddings, scale, params)


def sparc(*, weigh: Weigh = sparse_weights, averaging: Averaging = "caption") -> Objective:
    """SPARC with weights of the paper's sweep: 0.5 and, of its four, 1."""

    def local(embeddings: Embeddings, scale: jax.Array, params: Any) -> jax.Array:
        del params
        return local_loss(embeddings, scale, weigh=weigh, averaging=averaging)

    return Objective(
        terms={"global": _global, "local": local},
        weights={"global": 0.5, "local": 1.0},
        weigh=weigh,
        averaging=averaging,
    )


def _scored(
    score: pairwise.Score, at_once: int, embeddings: Embeddings, scale: jax.Array, params: Any
) -> jax.Array:
    del params
    return pairwise.scored_contrast(score, embeddings, scale, at_once=at_once)


def objectives(*, at_once: int = pairwise.PAIRS_AT_ONCE) -> dict[str, Objective]:
    """All by name. at_once: rows of the other side that FILIP, PACL and GLoRIA score at a time."""

    def scored(score: pairwise.Score) -> Term:
        return partial(_scored, score, at_once)

    both = {"global": 1.0, "local": 1.0}
    return {
        "sparc": sparc(),
        "sparc listing": sparc(averaging="batch"),
        "no sparsity": sparc(weigh=dense_weights),
        "softmax": sparc(weigh=softmax_weights),
        "clip": Objective(terms={"global": _global}, weights={"global": 1.0}),
        "filip": Objective(terms={"local": scored(pairwise.filip_score)}, weights={"local": 1.0}),
        "pacl": Objective(terms={"local": scored(pairwise.pacl_score)}, weights={"local": 1.0}),
        "gloria": Objective(
            terms={"global": _global, "local": scored(pairwise.gloria_score)}, weights=both
        ),
        "mgca": Objective(
            terms={"global": _global, "local": _mgca}, weights=both, init=init_projections
        ),
    }


OBJECTIVES: Mapping[str, Objective] = objectives()


def objective_of(name: str, *, local_weight: float | None = None) -> Objective:
    """local_weight: of its local term, where it has one beside a global one.

    Raises UserError: there is none of that name."""
    if name not in OBJECTIVES:
        raise UserError(
            f"{name!r} is no objective{did_you_mean(name, OBJECTIVES)}: they are "
            f"{', '.join(map(repr, OBJECTIVES))}"
        )
    chosen = OBJECTIVES[name]
    if local_weight is not None and {"local", "global"} <= chosen.weights.keys():
        return chosen.weighing(local=local_weight)
    return chosen
