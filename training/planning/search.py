# SPDX-License-Identifier: Apache-2.0
"""The fastest mesh and rematerialisation policy for a slice, with few of them compiled.

Arithmetic alone bounds a candidate from below: memory by what a device holds (parameters,
optimizer, gradients) and keeps for the backward pass, time by the FLOPs, by reading what is held,
and by sending the parameters (floors.py). What cannot fit, or cannot be faster than the best so
far, is not compiled. What the compiler took beside the bound for one policy of a mesh is taken to
be needed by most for the others of it, too. Traffic with memory is far above its bound (values that
come and go are not known before), but of the policies of a mesh it lies near a line in what they
keep: two that were compiled tell which others cannot win. What a mesh exchanges is the same
whatever is computed again, if anything is, and one that was compiled tells it.
"""

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kernels.measure import tpu_compile
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.remat import POLICIES
from recurrentgemma.sharding import MeshConfig
from training.planning import floors
from training.planning.costs import kept_bytes, step_bytes, training_flops
from training.planning.plan import abstract_state, chip_of, held_bytes, lay, plan_step

BESIDES = 0.7  # of what one policy took beyond its bound, that others of its mesh take too
SURE = 0.97  # of the traffic on the line, that a policy has at least: eight of 2B on v6e:4x4 do
SOURCES = (  # what a plan of a training step hangs on
    *("kernels", "recurrentgemma", "training/observe/chips.py"),
    *(f"training/{name}.py" for name in ("step", "objective", "optim")),
    *(f"training/planning/{name}.py" for name in ("plan", "costs", "floors", "hlo", "products")),
)


class Candidate(NamedTuple):
    """A mesh and a policy. memory: bytes of a device at least; likely: estimated; seconds: of a
    step, at least; kept: bytes for the backward pass."""

    config: GriffinConfig
    mesh: MeshConfig
    memory: float
    likely: float
    seconds: float
    kept: float


def candidates(
    config: GriffinConfig, topology: str, *, batch: int, sequence: int, meshes: Sequence[MeshConfig]
) -> list[Candidate]:
    """Every policy (or the one that config.remat names, if it is not `auto`) on every mesh."""
    chip = chip_of(topology)
    policies = POLICIES if config.remat == "auto" else (config.remat,)
    bounded = []
    for mesh in meshes:
        laid = lay(topology, mesh)
        sharding.check_model(config, laid.shape)
        sharding.check_batch(batch, sequence, laid.shape)
        state = abstract_state(config, laid)[2]
        params, optimizer = held_bytes(state.params), held_bytes(state.opt_state)
        tokens = batch * sequence / laid.size * laid.shape["tensor"]
        sent = floors.exchange_floor(state.params, laid.shape, config.dtype)
        for remat in policies:
            chosen = dataclasses.replace(config, remat=remat)
            kept = tokens * kept_bytes(chosen, sequence, remat, laid.shape["tensor"])
            resident = 2 * params + optimizer
            flops = training_flops(chosen, batch, sequence, laid.shape)["per_device"]
            seconds = max(
                flops / chip.flops,
                (params + optimizer + kept) / chip.bandwidth,
                sent / (2 * len(chip.pod) * chip.link),
            )
            named = kept if remat != "none" else 0.7 * kept  # fusions keep less than JAX does
            likely = resident + step_bytes(chosen, tokens, laid.shape, "tpu") + named
            bounded.append(Candidate(chosen, mesh, resident + named, likely, seconds, kept))
    return bounded


def search(
    waiting: Sequence[Candidate],
    topology: str,
    compile_one: Callable[[Candidate], dict[str, Any]],
    report: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[dict[str, Any]]:
    """The plans of those that may be the fastest, until none is left. Those that are likely to fit
    go first, the fastest of them before the others; of equals the first mesh, then the smallest."""
    chip = chip_of(topology)
    limit, best, besides = chip.hbm, float("inf"), {}
    traffic: dict[MeshConfig, dict[float, float]] = {}  # kept -> seconds, of what fitted
    exchange: dict[MeshConfig, float] = {}  # seconds
    started, compiled = clock(), 0

    def traffic_of(candidate: Candidate) -> float:
        """Seconds, as what was compiled tells them."""
        known = traffic.get(candidate.mesh, {})
        if len(known) > 1:
            line = statistics.linear_regression(list(known), list(known.values()))
            return line.intercept + line.slope * candidate.kept
        for kept, seconds in known.items():
            return seconds + 2 * (candidate.kept - kept) / chip.bandwidth  # written, and read
        return 0.0

    def exchange_of(candidate: Candidate) -> float:
        """Without remat there is less of it: nothing is gathered again."""
        return exchange.get(candidate.mesh, 0.0) if candidate.config.remat != "none" else 0.0

    def may_win(candidate: Candidate) -> bool:
        needed = candidate.memory + besides.get(candidate.mesh, 0.0)
        sure = SURE * traffic_of(candidate) if len(traffic.get(candidate.mesh, {})) > 1 else 0.0
        seconds = max(candidate.seconds, sure, exchange_of(candidate))
        return seconds < best and needed <= limit

    def order(candidate: Candidate) -> tuple[bool, float, float]:
        seconds = max(candidate.seconds, traffic_of(candidate), exchange_of(candidate))
        return candidate.likely > limit, seconds, candidate.likely

    left = list(waiting)
    smallest = min(left, key=lambda c: c.memory)
    while left := sorted(filter(may_win, left), key=order):
        if compiled:
            most = (clock() - started) / compiled * len(left)
            report(f"{compiled} tried, {len(left)} may be faster: {most / 60:.0f} minutes at most")
        candidate = left.pop(0)
        tried = compile_one(candidate)
        compiled += 1
        more = tried["bytes_per_device"]["total"] - candidate.memory
        besides[candidate.mesh] = max(besides.get(candidate.mesh, 0.0), BESIDES * more)
        if tried["fits"]:
            best = min(best, tried["step_seconds"])
            traffic.setdefault(candidate.mesh, {})[candidate.kept] = tried["seconds"]["memory"]
            if candidate.config.remat != "none":
                exchange[candidate.mesh] = tried["seconds"]["interconnect"]
        yield tried
    if not compiled:
        yield compile_one(smallest)  # which says by how much it does not fit


def cached_plan(
    folder: Path, candidate: Candidate, topology: str, *, batch: int, sequence: int
) -> dict[str, Any]:
    """The plan of a candidate, from the folder if it has been made before by this code, this JAX
    and this compiler, else compiled and put there."""
    question = {
        "config": candidate.config.to_json(),
        "mesh": dataclasses.asdict(candidate.mesh),
        "topology": topology,
        "batch": batch,
        "sequence": sequence,
        **versions(),
    }
    text = json.dumps(question, sort_keys=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    plan = plan_step(
        candidate.config, topology, batch=batch, sequence=sequence, mesh=candidate.mesh
    )
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plan), encoding="utf-8")
    partial.replace(path)
    return plan


def versions() -> dict[str, str]:
    """Of all that a plan hangs on beside its question."""
    library = tpu_compile.library()
    names = ("jax", "jaxlib", "flax", "optax")
    home, digest = Path(__file__).parents[2], hashlib.sha256()
    for source in SOURCES:
        where = home / source
        for file in sorted(where.rglob("*.py")) if where.is_dir() else [where]:
            digest.update(file.read_bytes())
    return {
        **{name: importlib.metadata.version(name) for name in names},
        "libtpu": str(library and (str(library), library.stat().st_size)),
        "code": digest.hexdigest(),
    }


def candidate_meshes(
    config: GriffinConfig, devices: int, batch: int, sequence: int
) -> list[MeshConfig]:
    """Every mesh that divides all it has to, those that exchange least first: least tensor, then
    least sequence, then most fsdp.

    Raises:
      ValueError: there is none.
    """
    divisors = [d for d in range(1, devices + 1) if devices % d == 0]
    meshes = []
    for tensor, sequence_parts, fsdp in itertools.product(divisors, repeat=3):
        data, remainder = divmod(devices, tensor * sequence_parts * fsdp)
        if remainder or not data:
            continue
        mesh = MeshConfig(data=data, fsdp=fsdp, sequence=sequence_parts, tensor=tensor)
        try:
            sharding.check_model(config, dataclasses.asdict(mesh))
            sharding.check_batch(batch, sequence, dataclasses.asdict(mesh))
        except UserError:
            continue
        meshes.append(mesh)
    if not meshes:
        raise UserError(
            f"no mesh of {devices} devices divides {batch} rows of {sequence} tokens and this "
            f"model; choose a batch, or a sequence, that is a multiple of {devices}"
        )
    return sorted(meshes, key=lambda mesh: (mesh.tensor, mesh.sequence, -mesh.fsdp))
