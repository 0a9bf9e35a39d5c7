# SPDX-License-Identifier: Apache-2.0
"""What a step of each objective costs: FLOPs and memory of a device by the compiler, at the paper's
shapes, and seconds here at a small size.

    python -m training.recipes.sparc.cost                         FLOPs; about 30 CPU seconds
    python -m training.recipes.sparc.cost --memory 1 2            of towers of so many layers
    python -m training.recipes.sparc.cost --seconds --rows 64     one interleaved run

Nothing is allocated for the first two: shapes are abstract. FLOPs are XLA's count for the program
before it is optimised, of loss and gradient on one of the devices, with all pairs of FILIP, PACL
and GLoRIA scored at once (XLA counts a loop's body once) and nothing computed again. Memory is that
of the whole step, AdamW's state with it, as the compiler for this machine's processor lays it out
in float32, with pairs scored some at a time: arguments, temporaries and what is not written in
place.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from recurrentgemma import sharding
from recurrentgemma.sharded import on_mesh
from training.recipes.sparc.batch import PairBatch, pair_batch
from training.recipes.sparc.objectives import Objective, objectives
from training.recipes.sparc.step import (
    PairState,
    Settings,
    init_state,
    make_step,
    make_tx,
    pair_loss,
)
from training.recipes.sparc.towers import ImageText, PairConfig, paper, small

SETTINGS = Settings(steps=1000, gap=False)
NAMES = ("clip", "sparc", "mgca", "pacl", "filip", "gloria")
ROWS, DEVICES = 16_384, 256  # the paper's batch and chips
PAPER = {  # TFLOPs and MB at B = 16,384 (2401.09865, appendix)
    "clip": (9.14, 8_578),
    "sparc": (9.19, 8_620),
    "mgca": (9.23, 8_681),
    "filip": (27.25, 15_463),
    "pacl": (12.8, 14_785),
}


def abstract_batch(config: PairConfig, rows: int, place: Any = None) -> PairBatch:
    """Shapes of so many pairs, with the longest captions."""

    def shape(dtype: Any, *sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *sizes), dtype, sharding=place)

    length = config.text.length
    arrays: Any = (
        shape(jnp.float32, *config.image_shape),
        shape(jnp.int32, length),
        shape(jnp.bool_, length),
        shape(jnp.bool_, length),
    )
    return PairBatch(*arrays)


def abstract_params(config: PairConfig, objective: Objective) -> tuple[Any, Any]:
    """The model's structure, and shapes of the parameters."""
    model = nnx.eval_shape(lambda: ImageText(config, rngs=nnx.Rngs(0)))
    graphdef, shapes = nnx.split(model, nnx.Param)
    own = jax.eval_shape(lambda: objective.init(jax.random.key(0), config.width))
    return graphdef, {"model": shapes, "objective": own}


def flops(config: PairConfig, objective: Objective, *, rows: int, devices: int) -> float:
    """Of loss and gradient, on one of so many devices that share the rows."""
    graphdef, params = abstract_params(config, objective)

    def loss(params: Any, batch: PairBatch) -> Any:
        model = nnx.merge(graphdef, params["model"])
        return pair_loss(model, objective, SETTINGS, params["objective"], batch)

    names = sharding.MESH_AXIS_NAMES
    mesh: Any = AbstractMesh((devices, 1, 1, 1), names, axis_types=(AxisType.Auto,) * len(names))
    specs = sharding.specs(params)
    divided = on_mesh(
        mesh,
        jax.value_and_grad(loss, has_aux=True),
        (specs, sharding.ROWS),
        ((P(), P()), specs),
    )
    traced = jax.jit(divided).trace(params, abstract_batch(config, rows))
    analysis = traced.lower(lowering_platforms=("cpu",)).cost_analysis()
    assert analysis is not None
    return analysis["flops"]


def memory(config: PairConfig, objective: Objective, *, rows: int, devices: int) -> int:
    """Bytes of one of so many devices in a whole step. They must be there: main makes them."""
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices))
    graphdef, params = abstract_params(config, objective)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state = jax.eval_shape(make_tx(SETTINGS).init, params)
    state: Any = PairState(step, params, opt_state)  # type: ignore[arg-type]
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        state,
        sharding.shardings(mesh, state),
    )
    batch = abstract_batch(config, rows, NamedSharding(mesh, sharding.ROWS))
    program: Any = make_step(graphdef, objective, SETTINGS, mesh=mesh)
    sizes = program.lower(state, (batch,)).compile().memory_analysis()
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
    )


def seconds(names: Sequence[str], *, rows: int, rounds: int) -> dict[str, np.ndarray]:
    """Of each step, by objective: they take turns. Small towers, on this machine."""
    config = small(512)
    random, length = np.random.default_rng(0), config.text.length
    batch = pair_batch(
        random.normal(size=(rows, *config.image_shape)),
        random.integers(0, 512, (rows, length)),
        np.ones((rows, length)),
        vocab_size=512,
        length=length,
    )
    batch = jax.device_put(batch)
    steps: dict[str, Callable[[], None]] = {}
    for name in names:
        objective = objectives()[name]
        model = ImageText(config, rngs=nnx.Rngs(0))
        graphdef, state = init_state(model, objective, SETTINGS)
        steps[name] = _timed(make_step(graphdef, objective, SETTINGS), state, batch)
        steps[name]()  # compiles
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    return {name: np.array(of_name) for name, of_name in times.items()}


def _timed(program: Any, state: PairState, batch: PairBatch) -> Callable[[], None]:
    def step() -> None:
        nonlocal state
        state, metrics = program(state, (batch,))
        jax.block_until_ready(metrics)

    return step


def shallower(config: PairConfig, layers: int) -> PairConfig:
    """With so many layers in each tower."""
    assert config.image.mlp_widths is None
    return dataclasses.replace(
        config,
        image=dataclasses.replace(config.image, depth=layers),
        text=dataclasses.replace(config.text, depth=layers),  # type: ignore[call-arg]
    )


def flops_table(vision: str, names: Sequence[str]) -> str:
    """Markdown."""
    every = objectives(at_once=ROWS)
    counts = {n: flops(paper(vision), every[n], rows=ROWS, devices=DEVICES) for n in names}
    lines = ["| objective | TFLOPs | of CLIP's | paper | of CLIP's |", "|---|---|---|---|---|"]
    for name, count in counts.items():
        of_clip = f"{count / counts['clip']:.4f}" if "clip" in counts else ""
        printed = " | "
        if name in PAPER:
            teraflops = PAPER[name][0]
            printed = f"{teraflops} | {teraflops / PAPER['clip'][0]:.4f}"
        lines.append(f"| {name} | {count / 1e12:.3f} | {of_clip} | {printed} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vision", default="B/16", help="the paper's image tower")
    parser.add_argument("--objectives", nargs="+", default=NAMES)
    parser.add_argument("--memory", nargs="+", type=int, metavar="LAYERS", help="of each tower")
    parser.add_argument("--seconds", action="store_true")
    parser.add_argument("--rows", type=int, default=64, help="of --seconds")
    parser.add_argument("--rounds", type=int, default=20, help="of --seconds")
    arguments = parser.parse_args()
    if arguments.memory:
        jax.config.update("jax_num_cpu_devices", DEVICES)
        for layers in arguments.memory:
            for name in arguments.objectives:
                config = shallower(paper(arguments.vision), layers)
                size = memory(config, objectives()[name], rows=ROWS, devices=DEVICES)
                print(f"{name:12} {layers} layers  {size / 1e6:9,.1f} MB", flush=True)
    elif arguments.seconds:
        _print_seconds(seconds(arguments.objectives, rows=arguments.rows, rounds=arguments.rounds))
    else:
        print(flops_table(arguments.vision, arguments.objectives))


def _print_seconds(times: Mapping[str, np.ndarray]) -> None:
    first = next(iter(times))
    for name, of_name in times.items():
        ratio = float(np.median(of_name / times[first]))
        middle, least = float(np.median(of_name)) * 1e3, of_name.min() * 1e3
        print(
            f"{name:12} {middle:8.1f} ms (least {least:.1f})  {ratio:.3f} x {first}, the median of "
            f"{len(of_name)} rounds"
        )


if __name__ == "__main__":
    main()
