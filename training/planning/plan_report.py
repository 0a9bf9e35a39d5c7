# SPDX-License-Identifier: Apache-2.0
"""The plans of docs/training.md.

    python -m training.planning.plan_report [MODEL:SLICE ...] [--remat POLICY] [--out FILE]

The published models on slices of 16 and 256 chips at one row of 8,192 tokens a chip (and half a row
where that does not fit), then a row of a million tokens over a slice, each with the policy that
recomputes least of those that fit, or with POLICY. Three hours on two cores, one with a POLICY;
needs no TPU. With MODEL:SLICE, such as recurrentgemma_2b:v5e:4x4, only those. Plans are kept as
`griffin plan` keeps them, and FILE (JSON lines) keeps the lines of the table; a second call goes
on from both.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from kernels.measure.command import options
from recurrentgemma.presets import preset
from recurrentgemma.remat import POLICIES
from recurrentgemma.sharding import MeshConfig
from training.data.packages import cache_directory
from training.planning.plan import topology_size
from training.planning.plan_cli import choose
from training.planning.search import cached_plan, candidate_meshes, candidates, search

MODELS = ("recurrentgemma_2b", "recurrentgemma_9b", "griffin_14b")
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:2x2x4", "v5p:4x8x8", "v6e:4x4", "v6e:16x16")
LONG = (  # model, topology, sequence axis
    ("recurrentgemma_2b", "v5e:16x16", 256),
    ("recurrentgemma_2b", "v5p:4x4x4", 64),
    ("recurrentgemma_9b", "v5p:4x4x4", 64),
)
TIME, MILLION = 8192, 2**20


def jobs() -> list[tuple[str, str, int, int, MeshConfig]]:
    """(model, topology, batch, sequence, mesh) of every plan."""
    wanted = []
    for topology in TOPOLOGIES:
        chips = topology_size(topology)
        for model in MODELS:
            mesh = candidate_meshes(preset(model), chips, chips, TIME)[0]
            wanted.append((model, topology, chips, TIME, mesh))
    for model, topology, parts in LONG:
        wanted.append((model, topology, 1, MILLION, MeshConfig(data=1, sequence=parts)))
    return wanted


def row(model: str, plan: dict[str, Any]) -> str:
    memory = plan["bytes_per_device"]
    mesh = " x ".join(f"{axis}={n}" for axis, n in plan["mesh"].items() if n > 1)
    sent = sum(kind["bytes"] for kind in plan["collectives"].values())
    cells = [model, plan["topology"], f"{plan['batch']} x {plan['sequence']:,}", mesh]
    cells += [plan["remat"]]
    cells += ["yes" if plan["fits"] else "no"]
    cells += [f"{memory[kind] / 2**30:.1f}" for kind in ("parameters", "optimizer")]
    cells += [
        f"{memory[k] / 2**30:.1f}" if memory[k] else "" for k in ("activations", "temporaries")
    ]
    cells += [f"{memory['total'] / 2**30:.1f} / {memory['limit'] / 2**30:.1f}"]
    cells += [f"{plan['flops']['model'] / 1e15:,.1f}", f"{sent / 1e9:.1f}" if sent else ""]
    seconds = [f"{s:.2f}" for s in plan["seconds"].values()]
    cells += [" / ".join(seconds)]
    bound = plan["mfu_bound"]
    cells += [f"{plan['step_seconds']:.2f}", f"{100 * bound:.1f}%"] if bound else ["", ""]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "model | slice | batch | mesh | remat | fits | parameters, GiB | optimizer | activations "
    "| temporaries | all / limit | PFLOP | GB sent | arithmetic / memory / wires, s | step, s "
    "| MFU at most"
)


def best(
    model: str, remat: str, topology: str, batch: int, time: int, mesh: MeshConfig
) -> dict[str, Any]:
    """The plan with this policy; with "auto", that with the least recomputation that fits."""
    config = dataclasses.replace(preset(model), dtype="bfloat16", scan_layers=True, remat=remat)
    shape = {"batch": batch, "sequence": time}
    waiting = candidates(config, topology, meshes=[mesh], **shape)

    def compile_one(candidate):
        print(model, topology, batch, candidate.config.remat, file=sys.stderr, flush=True)
        return cached_plan(cache_directory() / "plans", candidate, topology, **shape)

    return choose(list(search(waiting, topology, compile_one)))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("only", nargs="*", metavar="MODEL:SLICE")
    parser.add_argument("--remat", choices=("auto", *POLICIES), default="auto", metavar="POLICY")
    parser.add_argument("--out", type=Path, default=Path("plans.jsonl"))
    arguments = parser.parse_args()
    out, remat = arguments.out, arguments.remat
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {
        (d["model"], d.get("asked", "auto"), d["topology"], d["batch"], d["sequence"]): d
        for d in done
    }
    plans = []
    waiting = [
        job for job in jobs() if not arguments.only or f"{job[0]}:{job[1]}" in arguments.only
    ]
    while waiting:
        model, topology, batch, time, mesh = waiting.pop(0)
        key = (model, remat, topology, batch, time)
        if key not in known:
            known[key] = {"model": model, "asked": remat, **best(*key, mesh)}
            with out.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
        plans.append(known[key])
        chips = topology_size(topology)
        if not known[key]["fits"] and batch == chips:  # half a row a chip, then
            half = MeshConfig(data=1, fsdp=chips // 2, sequence=2)
            waiting.insert(0, (model, topology, chips // 2, time, half))
    print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
    for plan in plans:
        print(row(plan["model"], plan))


if __name__ == "__main__":
    main()
