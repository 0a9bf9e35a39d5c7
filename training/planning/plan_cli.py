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

EXAMPLES = """Compile the real training step for a TPU slice, without a TPU, and say what it takes.

Needs libtpu, the TPU compiler (`make venv` installs it). A step compiles in one to five minutes.

examples:
  griffin plan recurrentgemma_2b --topology v5e:4x4 --batch 16 --sequence 8192
  griffin plan griffin_14b --topology v5p:4x4x4 --batch 64 --sequence 8192 --search
  griffin plan recurrentgemma_2b --topology v5p:4x4x4 --batch 1 --sequence 1048576
  griffin plan recurrentgemma_9b --topology v6e:2x2 --serve --slots 64 --mesh.tensor 4
"""
REMATS: tuple[Remat, ...] = ("none", "dots", "block")  # from the fastest to the smallest


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanArguments:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")]
    """A preset's name; `griffin info` lists them."""
    topology: str
    """CHIP:AxB of v5e or v6e, CHIP:AxBxC of v5p, such as v5e:16x16."""
    batch: int = 0
    """Rows in a batch over the whole slice; needed, but with --serve."""
    sequence: int = 8192
    """Tokens in a row."""
    mesh: MeshConfig = dataclasses.field(default_factory=lambda: MeshConfig(data=1))
    """Devices along each axis; by default fsdp over as many as divide the batch, then sequence."""
    remat: Remat = "block"
    """What the backward pass recomputes."""
    search: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Try meshes and remat policies, and choose the fastest that fits."""
    candidates: int = 4
    """How many meshes --search compiles."""
    serve: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Plan decoding for --slots sequences instead of a training step."""
    slots: int = 0
    """Sequences that are decoded together."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object (with --search: what was chosen, and `tried`, a list of all)."""


def main(argv: list[str]) -> int:
    """Plan and print. Exit status 1: it does not fit."""
    arguments = tyro.cli(PlanArguments, prog="griffin plan", description=EXAMPLES, args=argv)
    config = dataclasses.replace(preset(arguments.model), dtype="bfloat16")
    check(arguments)
    console = Console(stderr=True)
    with console.status("starting") as status:
        tried = []
        for found in plans(config, arguments, status.update):
            tried.append(found)
            if arguments.search:
                console.print(line(found), highlight=False)
    best = choose(tried)
    if arguments.json:
        print(json.dumps({**best, "tried": tried} if arguments.search else best))
    else:
        Console().print(table(arguments.model, best))
    return 0 if best["fits"] else 1


def check(arguments: PlanArguments) -> None:
    """Raises ValueError: a number is missing or below 1, or two options contradict each other."""
    needed, other = ("slots", "batch") if arguments.serve else ("batch", "slots")
    if getattr(arguments, other):
        without = "with" if arguments.serve else "without"
        raise UserError(f"--{other} {getattr(arguments, other)} means nothing {without} --serve")
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
    from training.planning.plan import candidate_meshes, plan, topology_size

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
    scanned = dataclasses.replace(config, scan_layers=True)
    meshes = [arguments.mesh]
    if arguments.search or arguments.mesh == MeshConfig(data=1):
        devices = topology_size(arguments.topology)
        meshes = candidate_meshes(config, devices, arguments.batch, arguments.sequence)
        meshes = meshes[: arguments.candidates if arguments.search else 1]
    for mesh in meshes:
        for remat in REMATS if arguments.search else (arguments.remat,):
            chosen = dataclasses.replace(scanned, remat=remat)
            found = plan(chosen, arguments.topology, **shape, mesh=mesh, report=report)
            yield found
            if found["fits"] and remat != REMATS[-1]:
                break  # the policies after it only recompute more


def choose(tried: list[dict]) -> dict:
    """The fastest that fits; if none does, the smallest."""
    fitting = [found for found in tried if found["fits"]]
    if fitting:
        return min(fitting, key=lambda found: found["step_seconds"])
    return min(tried, key=lambda found: found["bytes_per_device"]["total"])


def axes(found: dict) -> str:
    return " x ".join(f"{axis}={n}" for axis, n in found["mesh"].items() if n > 1) or "one device"


def line(found: dict) -> str:
    """One plan on one line."""
    memory = found["bytes_per_device"]
    size = f"{memory['total'] / 2**30:.1f} of {memory['limit'] / 2**30:.1f} GiB"
    if not found["fits"]:
        return f"{axes(found)}, remat {found['remat']}: {size}: does not fit"
    speed = f"{found['step_seconds']:.3f} s a step, MFU at most {100 * found['mfu_bound']:.0f}%"
    return f"{axes(found)}, remat {found['remat']}: {size}; {speed}"


def table(name: str, found: dict) -> Table:
    """One plan as a table."""
    shown = Table(title=f"{name} on {found['topology']}", show_header=False, title_justify="left")
    memory = found["bytes_per_device"]

    def add(what: str, value: str) -> None:
        shown.add_row(what, value)

    add("fits", "yes" if found["fits"] else "no")
    add("mesh", axes(found))
    if found["remat"]:
        add("remat", found["remat"])
        add("batch", f"{found['batch']:,} x {found['sequence']:,} tokens")
    else:
        add("slots", f"{found['slots']:,}")
    for kind, size in memory.items():
        unknown = "among the temporaries" if found["fits"] else "not known: it does not fit"
        known = unknown if size is None else f"{size / 2**30:,.2f} GiB"
        add({"total": "memory of a device", "limit": "it has"}.get(kind, f"  {kind}"), known)
    add("FLOPs of the model", f"{found['flops']['model']:.3e}")
    add("FLOPs of a device", f"{found['flops']['per_device']:.3e}")
    for kind, moved in found["collectives"].items():
        add(f"  {kind}", f"{moved['times']:,} times, {moved['bytes'] / 1e9:,.3f} GB sent")
    for kind, seconds in found["seconds"].items():
        add(f"  {kind} alone", f"{seconds:.4f} s")
    if found["step_seconds"] is not None:
        add("a step takes at least", f"{found['step_seconds']:.4f} s")
        add("tokens/s at most", f"{found['tokens_per_second']:,.0f}")
        add("MFU at most", f"{100 * found['mfu_bound']:.1f}%")
    return shown
