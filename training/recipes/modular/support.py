# SPDX-License-Identifier: Apache-2.0
"""Which combinations of modules are trained on, and which are held out (2312.15001, section 3).

    split = Support(kind="connected", modules=8, hot=2).split(seed=0)
    split.train_CLM, split.out_CLM          # masks of combinations
    components(split.train_CLM)             # 1: connected

A combination picks 1 to `hot` modules in each layer. Compositional support: every module is seen.
Connected support: the graph of combinations, with an edge between two that share a module, is
connected. A support that is not asked to leave a module unseen and does so is an error.
Legend: C combinations, L layers, M modules.
"""

import dataclasses
import itertools
from typing import Literal, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError

Kind = Literal["random", "connected", "disconnected", "bridged", "non-compositional"]
KINDS: tuple[Kind, ...] = ("random", "connected", "disconnected", "bridged", "non-compositional")
DRAWS = 100  # of a random split, until every module is seen


class Split(NamedTuple):
    """Masks of 0.0 and 1.0, [C, L, M]."""

    train_CLM: np.ndarray
    out_CLM: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Support:
    """Which kind, of how many modules in each of so many layers, 1 to `hot` of them at once.

    random: one combination in `held_out` is held out.
    connected: single modules, and pairs up to `reach` apart on a ring.
    disconnected: single modules, and pairs within either half; all layers use the same half.
    bridged: disconnected, and the one pair that joins the halves.
    non-compositional: the last module of the last layer is never seen.
    Of the second to fourth, what none of them trains on is held out.
    """

    kind: Kind
    modules: int
    hot: int
    layers: int = 1
    reach: int = 2
    held_out: int = 4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"support {self.kind!r}: expected one of {', '.join(KINDS)}")
        if not 1 <= self.hot <= self.modules:
            raise UserError(f"{self.hot} modules at once of {self.modules}: expected 1 to all")
        if min(self.layers, self.reach) < 1 or self.held_out < 2:
            raise UserError(
                f"layers {self.layers}, reach {self.reach}, held_out {self.held_out}: expected at "
                "least 1, 1 and 2"
            )
        pairs = self.kind in ("connected", "disconnected", "bridged")
        if pairs and (self.hot != 2 or self.modules % 2 or self.modules < 6):
            raise UserError(
                f"{self.kind} support of {self.modules} modules, {self.hot} at once: expected an "
                "even number from 6 on, 2 at once"
            )

    def split(self, seed: int) -> Split:
        """seed: of a random split.

        Raises UserError: nothing is held out; a module is unseen in training, and the kind is not
        non-compositional.
        """
        table_CLM = combinations(self.modules, self.hot, self.layers)
        if self.kind == "random":
            split = self._random(table_CLM, seed)
        else:
            train_C = self._trained(table_CLM, self.kind)
            known_C = train_C
            if self.kind != "non-compositional":
                for kind in ("connected", "disconnected", "bridged"):
                    known_C = known_C | self._trained(table_CLM, kind)
            split = Split(table_CLM[train_C], table_CLM[~known_C])
        if not len(split.out_CLM):
            raise UserError(
                f"{self.kind} support of {self.modules} modules, {self.hot} at once, leaves no "
                "combination to test: use more modules or a smaller reach"
            )
        if self.kind != "non-compositional":
            _refuse_unseen(split.train_CLM, self.kind)
        return split

    def _random(self, table_CLM: np.ndarray, seed: int) -> Split:
        """The first of DRAWS that leaves no module unseen, else the last."""
        out = len(table_CLM) // self.held_out
        for draw in range(DRAWS):
            order_C = np.random.default_rng((seed, draw)).permutation(len(table_CLM))
            split = Split(table_CLM[order_C[out:]], table_CLM[order_C[:out]])
            if not unseen(split.train_CLM):
                break
        return split

    def _trained(self, table_CLM: np.ndarray, kind: Kind) -> np.ndarray:
        """Which rows are trained on, [C]."""
        if kind == "non-compositional":
            return table_CLM[:, -1, -1] == 0
        half = self.modules // 2
        within_C: np.ndarray = (table_CLM[..., :half] == 0).all((1, 2)) | (
            (table_CLM[..., half:] == 0).all((1, 2))
        )
        if kind == "disconnected":
            return within_C
        if kind == "bridged":
            bridge_M = np.zeros(self.modules)
            bridge_M[[half - 1, half]] = 1
            return within_C | (table_CLM == bridge_M).all((1, 2))
        near = np.array([[self._near(mask_M) for mask_M in row_LM] for row_LM in table_CLM])
        return np.asarray(near.all(1))

    def _near(self, mask_M: np.ndarray) -> bool:
        """One module, or two that are at most `reach` apart on the ring."""
        active = np.flatnonzero(mask_M)
        if len(active) == 1:
            return True
        gap = active[1] - active[0]
        return bool(min(gap, self.modules - gap) <= self.reach)


def combinations(modules: int, hot: int, layers: int = 1) -> np.ndarray:
    """Masks of all choices of 1 to `hot` modules in each layer, [C, L, M]."""
    rows = [
        [float(module in chosen) for module in range(modules)]
        for count in range(1, hot + 1)
        for chosen in itertools.combinations(range(modules), count)
    ]
    single_CM = np.array(rows, np.float32)
    index_CL = np.array(list(itertools.product(range(len(rows)), repeat=layers)))
    return single_CM[index_CL]


def exactly(modules: int, hot: int, layers: int = 1) -> np.ndarray:
    """Those with exactly so many modules in every layer, [C, L, M]."""
    table_CLM = combinations(modules, hot, layers)
    return table_CLM[(table_CLM.sum(-1) == hot).all(-1)]


def unseen(masks_CLM: np.ndarray) -> list[tuple[int, int]]:
    """(layer, module), from 0, of what no combination has."""
    layers, modules = np.nonzero(masks_CLM.sum(0) == 0)
    return list(zip(layers.tolist(), modules.tolist(), strict=True))


def components(masks_CLM: np.ndarray) -> int:
    """Of the graph of combinations: the most of any layer, counting modules that are seen.

    Two combinations are neighbours where they share a module; so two modules are in one component
    where a chain of combinations leads from one to the other. 1 is connected.
    """
    return max(_components(masks_CLM[:, layer]) for layer in range(masks_CLM.shape[1]))


def _components(masks_CM: np.ndarray) -> int:
    """By spreading from a module until nothing is added."""
    left = set(np.flatnonzero(masks_CM.sum(0)).tolist())
    count = 0
    while left:
        reached_M = np.zeros(masks_CM.shape[1], bool)
        reached_M[min(left)] = True
        while True:
            touched_C = (masks_CM[:, reached_M] > 0).any(1)
            spread_M = (masks_CM[touched_C] > 0).any(0) | reached_M
            if (spread_M == reached_M).all():
                break
            reached_M = spread_M
        left -= set(np.flatnonzero(reached_M).tolist())
        count += 1
    return count


def _refuse_unseen(masks_CLM: np.ndarray, kind: str) -> None:
    if missing := unseen(masks_CLM):
        layer, module = missing[0]
        raise UserError(
            f"{kind} support leaves module {module} of layer {layer} unseen in training: expected "
            "every module to be seen; hold out less, use more modules at once, or ask for "
            "non-compositional support"
        )
