# SPDX-License-Identifier: Apache-2.0
"""`griffin plan`: does this model fit that TPU slice, and how fast could it train there?"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from recurrentgemma.config import GriffinConfig, Remat
from recurrentgemma.errors import UserError
from recurrentgemma.presets import preset
from recurrentgemma.sharding import MeshConfig
from training.pretraining import SETTINGS

DEFAULT_SEQUENCE = 8192
EXAMPLES = """Compile the real training step for a TPU slice, without a TPU, and say what it takes.

Needs libtpu, the TPU compiler (`make venv` installs it). A step compiles in one to five minutes;
finished plans are kept in $GRIFFIN_CACHE/plans.

examples:
  griffin plan griffin_1b --topology v5e:4x4                as `griffin train --preset` trains it
  griffin plan recurrentgemma_2b --topology v5e:4x4 --batch 16 --sequence 8192
  griffin plan griffin_14b --topology v5p:4x4x4 --batch 64 --sequence 8192 --search
  griffin plan recurrentgemma_2b --topology v5p:4x4x4 --batch 1 --sequence 1048576
  griffin plan recurrentgemma_9b --topology v6e:2x2 --serve --slots 64 --mesh.tensor 4
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanArguments:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")]
    """A preset's name; `griffin info` lists them."""
    topology: str
    """CHIP:AxB of v5e or v6e, CHIP:AxBxC of v5p, such as v5e:16x16."""
    batch: int = 0
    """Rows in a batch over the whole slice; by default as many as the preset is trained with."""
    sequence: int = 0
    """Tokens in a row; by default as many as the preset is trained with, or 8,192."""
    vocab_size: int = 0
    """Embeddings; by default the preset's, which a training run takes from its tokenizer."""
    mesh: MeshConfig = dataclasses.field(default_factory=lambda: MeshConfig(data=1))
    """Devices along each axis; by default fsdp over as many as divide the batch, then sequence."""
    remat: Remat = "auto"
    """What the backward pass recomputes; `auto`: as little as fits."""
    search: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Try meshes (and with `auto` policies), and choose the fastest that fits."""
    candidates: int = 4
    """How many meshes --search tries."""
    serve: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Plan decoding for --slots sequences instead of a training step."""
    slots: int = 0
    """Sequences that are decoded together."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object (with --search: what was chosen, and `tried`, a list of all)."""


def main(argv: list[str]) -> int:
    """Plan and print. Exit status 1: it does not fit."""
    arguments = parse(argv)
    config = dataclasses.replace(preset(arguments.model), dtype="bfloat16")
    arguments = with_settings(arguments)
    check(arguments)
    if arguments.vocab_size:
        config = dataclasses.replace(config, vocab_size=arguments.vocab_size)
    console = Console(stderr=True)
    with console.status("starting") as status:
        tried = []
        for plan in plans(config, arguments, status.update):
            tried.append(plan)
            if arguments.search:
                console.print(line(plan), highlight=False)
    best = choose(tried)
    if arguments.json:
        print(json.dumps({**best, "tried": tried} if arguments.search else best))
    else:
        Console().print(table(arguments.model, best))
    if not best["fits"] and not arguments.serve:
        console.print(advice(arguments), highlight=False)
    return 0 if best["fits"] else 1


def parse(argv: list[str]) -> PlanArguments:
    return tyro.cli(PlanArguments, prog="griffin plan", description=EXAMPLES, args=argv)


def with_settings(arguments: PlanArguments) -> PlanArguments:
    """With the batch and the sequence that the preset is trained with where none are given."""
    settings = SETTINGS.get(arguments.model)
    batch, sequence = arguments.batch, arguments.sequence or DEFAULT_SEQUENCE
    if settings is not None and not arguments.serve:
        sequence = arguments.sequence or settings.sequence_length
        batch = arguments.batch or settings.batch_size * settings.sequence_length // sequence
    return dataclasses.replace(arguments, batch=batch, sequence=sequence)


def check(arguments: PlanArguments) -> None:
    """Raises ValueError: a number is missing or below 1, or two options contradict each other."""
    needed, other = ("slots", "batch") if arguments.serve else ("batch", "slots")
    if getattr(arguments, other):
        without = "with" if arguments.serve else "without"
        raise UserError(f"--{other} {getattr(arguments, other)} means nothing {without} --serve")
    if arguments.vocab_size < 0:
        raise UserError(f"--vocab-size {arguments.vocab_size}: expected at least 1")
    for name in (needed, "sequence", "candidates"):
        if name == needed and getattr(arguments, name) == 0:
            what = "sequences that are decoded together" if arguments.serve else "rows in a batch"
            raise UserError(f"--{name} is missing: say how many {what} to plan for")
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)}: expected at least 1")
    if arguments.serve and arguments.search:
        raise UserError("--serve and --search: there is nothing to search in serving; drop one")


def plans(config: GriffinConfig, arguments: PlanArguments, report: Any) -> Iterator[dict]:
    """The plans that were asked for, one after the other."""
    from training.data.packages import cache_directory
    from training.planning.plan import topology_size
    from training.planning.search import (
        Candidate,
        cached_plan,
        candidate_meshes,
        candidates,
        search,
    )

    if arguments.serve:
        from training.planning.serving_plan import plan_serving

        served = dataclasses.replace(config, param_dtype="bfloat16")
        mesh = arguments.mesh
        if mesh == MeshConfig(data=1):
            mesh = MeshConfig()
        yield plan_serving(
            served, arguments.topology, slots=arguments.slots, mesh=mesh, report=report
        )
        return
    shape = {"batch": arguments.batch, "sequence": arguments.sequence}
    scanned = dataclasses.replace(config, scan_layers=True, remat=arguments.remat)
    meshes = [arguments.mesh]
    if arguments.search or arguments.mesh == MeshConfig(data=1):
        devices = topology_size(arguments.topology)
        meshes = candidate_meshes(config, devices, arguments.batch, arguments.sequence)
        meshes = meshes[: arguments.candidates if arguments.search else 1]
    folder = cache_directory() / "plans"
    progress = ""

    def compile_one(candidate: Candidate) -> dict:
        report(f"{progress}{candidate.mesh.describe()}, remat {candidate.config.remat}")
        return cached_plan(folder, candidate, arguments.topology, **shape)

    def left(text: str) -> None:
        nonlocal progress
        progress = f"{text}; "

    waiting = candidates(scanned, arguments.topology, meshes=meshes, **shape)
    yield from search(waiting, arguments.topology, compile_one, left)


def choose(tried: list[dict]) -> dict:
    """The fastest that fits; if none does, the smallest."""
    fitting = [plan for plan in tried if plan["fits"]]
    if fitting:
        return min(fitting, key=lambda plan: plan["step_seconds"])
    return min(tried, key=lambda plan: plan["bytes_per_device"]["total"])


def advice(arguments: PlanArguments) -> str:
    """What to do about a training step that does not fit."""
    text = "It does not fit: try more chips"
    if arguments.batch % 2 == 0:
        text += (
            f", or half a batch, --batch {arguments.batch // 2}, which `griffin train "
            f"--grad-accumulation-steps` takes several of for one step"
        )
    return text


def mesh_axes(plan: dict) -> str:
    return " x ".join(f"{axis}={n}" for axis, n in plan["mesh"].items() if n > 1) or "one device"


def line(plan: dict) -> str:
    """One plan on one line."""
    memory = plan["bytes_per_device"]
    size = f"{memory['total'] / 2**30:.1f} of {memory['limit'] / 2**30:.1f} GiB"
    if not plan["fits"]:
        return f"{mesh_axes(plan)}, remat {plan['remat']}: {size}: does not fit"
    speed = f"{plan['step_seconds']:.3f} s a step, MFU at most {100 * plan['mfu_bound']:.0f}%"
    return f"{mesh_axes(plan)}, remat {plan['remat']}: {size}; {speed}"


def table(name: str, plan: dict) -> Table:
    """One plan as a table."""
    shown = Table(title=f"{name} on {plan['topology']}", show_header=False, title_justify="left")
    memory = plan["bytes_per_device"]

    def add(what: str, value: str) -> None:
        shown.add_row(what, value)

    add("fits", "yes" if plan["fits"] else "no")
    add("mesh", mesh_axes(plan))
    if plan["remat"]:
        add("remat", plan["remat"])
        add("batch", f"{plan['batch']:,} x {plan['sequence']:,} tokens")
    else:
        add("slots", f"{plan['slots']:,}")
    for kind, size in memory.items():
        unknown = "among the temporaries" if plan["fits"] else "not known: it does not fit"
        known = unknown if size is None else f"{size / 2**30:,.2f} GiB"
        add({"total": "memory of a device", "limit": "it has"}.get(kind, f"  {kind}"), known)
    add("FLOPs of the model", f"{plan['flops']['model']:.3e}")
    add("FLOPs of a device", f"{plan['flops']['per_device']:.3e}")
    for kind, moved in plan["collectives"].items():
        add(f"  {kind}", f"{moved['times']:,} times, {moved['bytes'] / 1e9:,.3f} GB sent")
    for kind, seconds in plan["seconds"].items():
        add(f"  {kind} alone", f"{seconds:.4f} s")
    if plan["step_seconds"] is not None:
        add("a step takes at least", f"{plan['step_seconds']:.4f} s")
        add("tokens/s at most", f"{plan['tokens_per_second']:,.0f}")
        add("MFU at most", f"{100 * plan['mfu_bound']:.1f}%")
        add("  with what is recomputed", f"{100 * plan['hfu_bound']:.1f}%")
    return shown
