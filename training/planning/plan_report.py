# SPDX-License-Identifier: Apache-2.0
"""The plans of docs/training.md.

    python -m training.planning.plan_report [--out FILE]        an hour on two cores; needs no TPU

The published models on slices of 16 and 256 chips at one row of 8,192 tokens a chip (and half a row
where that does not fit), then a row of a million tokens over a slice. FILE (JSON lines) keeps what
is done; a second call goes on from it.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from recurrentgemma.presets import preset
from recurrentgemma.sharding import MeshConfig
from training.planning.plan import candidate_meshes, plan, topology_size

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
    found = []
    for topology in TOPOLOGIES:
        chips = topology_size(topology)
        for model in MODELS:
            mesh = candidate_meshes(preset(model), chips, chips, TIME)[0]
            found.append((model, topology, chips, TIME, mesh))
    for model, topology, parts in LONG:
        found.append((model, topology, 1, MILLION, MeshConfig(data=1, sequence=parts)))
    return found


def row(model: str, found: dict[str, Any]) -> str:
    memory = found["bytes_per_device"]
    mesh = " x ".join(f"{axis}={n}" for axis, n in found["mesh"].items() if n > 1)
    sent = sum(kind["bytes"] for kind in found["collectives"].values())
    cells = [model, found["topology"], f"{found['batch']} x {found['sequence']:,}", mesh]
    cells += ["yes" if found["fits"] else "no"]
    cells += [f"{memory[kind] / 2**30:.1f}" for kind in ("parameters", "optimizer")]
    cells += [
        f"{memory[k] / 2**30:.1f}" if memory[k] else "" for k in ("activations", "temporaries")
    ]
    cells += [f"{memory['total'] / 2**30:.1f} / {memory['limit'] / 2**30:.1f}"]
    cells += [f"{found['flops']['model'] / 1e15:,.1f}", f"{sent / 1e9:.1f}" if sent else ""]
    seconds = [f"{s:.2f}" for s in found["seconds"].values()]
    cells += [" / ".join(seconds)]
    bound = found["mfu_bound"]
    cells += [f"{found['step_seconds']:.2f}", f"{100 * bound:.0f}%"] if bound else ["", ""]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "model | slice | batch | mesh | fits | parameters, GiB | optimizer | activations | temporaries "
    "| all / limit | PFLOP | GB sent | arithmetic / memory / wires, s | step, s | MFU at most"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("plans.jsonl"))
    out = parser.parse_args().out
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(d["model"], d["topology"], d["batch"], d["sequence"]): d for d in done}
    found = []
    waiting = jobs()
    while waiting:
        model, topology, batch, time, mesh = waiting.pop(0)
        key = (model, topology, batch, time)
        if key not in known:
            config = dataclasses.replace(
                preset(model), dtype="bfloat16", scan_layers=True, remat="block"
            )
            print(model, topology, batch, mesh.describe(), file=sys.stderr, flush=True)
            made = plan(config, topology, batch=batch, sequence=time, mesh=mesh)
            known[key] = {"model": model, **made}
            with out.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
        found.append(known[key])
        chips = topology_size(topology)
        if not known[key]["fits"] and batch == chips:  # half a row a chip, then
            half = MeshConfig(data=1, fsdp=chips // 2, sequence=2)
            waiting.insert(0, (model, topology, chips // 2, time, half))
    print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
    for one in found:
        print(row(one["model"], one))


if __name__ == "__main__":
    main()
