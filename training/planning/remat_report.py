# SPDX-License-Identifier: Apache-2.0
"""Matrix products and memory of a training step with each rematerialisation policy.

    python -m training.planning.remat_report [TOPOLOGY ...] [--policies block none]

A step with AdamW of six layers at width 768, compiled for this machine and for one chip
of each TPU topology, such as v5e:2x2 (an hour on one core; needs no TPU, and runs nothing).
Printed: the products in the compiled program, loops counted as often as they run, and MiB at its
peak. Numbers in docs/training.md.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

from kernels.measure import tpu_compile
from kernels.measure.command import options
from recurrentgemma.config import GriffinConfig
from recurrentgemma.presets import preset
from recurrentgemma.remat import POLICIES
from recurrentgemma.sharding import MeshConfig, make_mesh
from training.planning import hlo, products
from training.planning.plan import chip_of, lower_step, program_bytes

HERE = "this machine"
DTYPES = ("float32", "bfloat16")


class Cell(NamedTuple):
    """products: times they run, all in all; repeated: those that the compiler added because memory
    is short; peak: bytes."""

    products: int
    repeated: int
    peak: int


def config(remat: str, dtype: str) -> GriffinConfig:
    """The model of the table."""
    base = dataclasses.replace(preset("griffin_100m"), num_layers=6, vocab_size=8192)
    return dataclasses.replace(base, remat=remat, dtype=dtype, scan_layers=True)


def measure(config: GriffinConfig, where: str, rows: int, sequence: int) -> Cell:
    """Compile one step of `rows` x `sequence` tokens for one device. where: a TPU topology, or
    HERE. Raises ValueError: the topology is not known."""
    if where == HERE:
        device, platform = jax.devices()[0], jax.default_backend()
    else:
        chip_of(where)
        device, platform = tpu_compile.devices(where)[0], "tpu"
    mesh = make_mesh(MeshConfig(data=1), [device])
    lowered = lower_step(config, mesh, rows, sequence, platform_name=platform)[1]
    with tpu_compile.uncached():
        compiled = lowered.compile()
    memory: Any = compiled.memory_analysis()
    every = products.products(hlo.parse(compiled.as_text() or ""))
    return Cell(
        sum(one.times for one in every),
        sum(one.times for one in every if one.repeated),
        program_bytes(memory) if platform == "tpu" else _all_bytes(memory),
    )


def _all_bytes(memory: Any) -> int:
    """What XLA's CPU compiler allocates: its `peak_memory_in_bytes` leaves temporaries out."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


def line(policy: str, cells: list[Cell]) -> str:
    """A row of the table: products and MiB of each cell."""
    parts = []
    for cell in cells:
        again = f" ({cell.repeated} by the compiler)" if cell.repeated else ""
        parts += [f"{cell.products:,}{again}", f"{cell.peak / 2**20:,.0f}"]
    return f"| `{policy}` | {' | '.join(parts)} |"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("topologies", nargs="*", metavar="TOPOLOGY")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=1024)
    arguments = parser.parse_args()
    places = [(where, dtype) for where in (HERE, *arguments.topologies) for dtype in DTYPES]
    heads = [f"{where}, {dtype} | MiB" for where, dtype in places]
    print(f"| policy | {' | '.join(heads)} |\n|{'---|' * (1 + 2 * len(heads))}")
    for policy in arguments.policies:
        shape = (arguments.rows, arguments.sequence)
        cells = [measure(config(policy, dtype), where, *shape) for where, dtype in places]
        print(line(policy, cells), flush=True)


if __name__ == "__main__":
    main()
