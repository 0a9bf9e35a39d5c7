# SPDX-License-Identifier: Apache-2.0
"""Peak memory of reading a checkpoint, against its size; time of saving one while training.

    python -m checkpoints.bench DIRECTORY [--preset recurrentgemma_2b] [--to huggingface ...]
    python -m checkpoints.bench DIRECTORY --save --preset griffin_400m

The first takes three minutes a format at 2B and 16 GB of disk, which it frees again. It writes a
random bfloat16 checkpoint of the preset's shapes in each format, and loads it in a process of its
own with `load_checkpoint`. Expected: a peak of the parameters' size and a few hundred MB.

The second saves float32 parameters and two moments of each, as training does, three times, and
restores them; beside it np.save of the same arrays. A minute at 400M and 20 GB of disk. Expected:
save returns in a fraction of a second. Numbers of both in docs/checkpoints.md.
"""

import dataclasses
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from checkpoints.names import FORMATS, Format

READ = """
import sys, time
import jax
from checkpoints.bench import resident
from checkpoints.load import load_checkpoint
jax.numpy.zeros(1).block_until_ready()
before = resident("VmRSS")
started = time.perf_counter()
model, config, _ = load_checkpoint(sys.argv[1], dtype=sys.argv[2] or None)
jax.block_until_ready(jax.tree.leaves(__import__("flax").nnx.state(model)))
print(before, resident("VmRSS"), resident("VmHWM"), time.perf_counter() - started)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchArguments:
    directory: Annotated[Path, tyro.conf.Positional]
    """Where to write the checkpoints; each is deleted after it was read."""
    preset: str = "recurrentgemma_2b"
    """A preset, or the config.json of a run or checkpoint."""
    save: bool = False
    """Measure saving and restoring a run's train state instead."""
    to: tuple[Format, ...] = FORMATS
    """The formats to measure."""
    dtype: str = ""
    """The dtype to read into; by default the one stored."""


def resident(field: str) -> int:
    """A field of this process's /proc/self/status, in bytes: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def random_checkpoint(path: Path, preset_name: str) -> int:
    """Write our own format with random bfloat16 bits (finite, of either sign); its bytes."""
    from checkpoints import store
    from checkpoints.model_json import config_named
    from checkpoints.open_checkpoint import DTYPES
    from recurrentgemma.parameters import param_shapes

    config = config_named(preset_name)
    config = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    generator = np.random.default_rng(0)
    params = {}
    for name, shape in param_shapes(config).items():
        bits = generator.integers(0, 2**16, shape, np.uint16)
        bits &= 0xBFFF  # the highest exponent bit clear: below 2 in size
        params[name] = bits.view(DTYPES["bfloat16"])
    size = sum(array.nbytes for array in params.values())
    store.write(path, params, config)
    return size


def main(argv: list[str]) -> int:
    """Print one line a format: resident bytes before, after and at the peak, and the seconds."""
    arguments = tyro.cli(BenchArguments, description=__doc__, args=argv)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        if arguments.save:
            _save(Path(folder), arguments.preset)
        else:
            _run(Path(folder), arguments)
    return 0


def _save(folder: Path, preset_name: str) -> None:
    import jax

    from checkpoints import store
    from checkpoints.model_json import config_named
    from recurrentgemma.parameters import param_shapes

    config = config_named(preset_name)
    key = jax.random.key(0)
    shapes = param_shapes(config)

    def random() -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}

    state = {"params": random(), "opt_state": {"mu": random(), "nu": random()}}
    leaves = jax.block_until_ready(jax.tree.leaves(state))
    size = sum(leaf.nbytes for leaf in leaves)
    print(
        f"{preset_name}: {size:,} bytes in {len(leaves)} arrays on {jax.devices()[0]}", flush=True
    )

    def timed(what: str, function) -> None:
        started = time.perf_counter()
        function()
        seconds = time.perf_counter() - started
        print(f"{what:40} {seconds:7.2f} s {size / seconds / 1e9:8.2f} GB/s", flush=True)

    def np_save(*, sync: bool) -> None:
        for number, leaf in enumerate(leaves):
            with (folder / f"{number}.npy").open("wb") as file:
                np.save(file, np.asarray(leaf))
                if sync:
                    file.flush()
                    os.fsync(file.fileno())

    def np_load() -> None:
        files = (folder / f"{number}.npy" for number in range(count))
        jax.block_until_ready([jax.device_put(np.load(file)) for file in files])

    os.sync()
    timed("np.save", lambda: np_save(sync=False))
    os.sync()
    timed("np.save and fsync", lambda: np_save(sync=True))
    store.write_run_config(folder, config, {})
    with store.Checkpoints(folder, keep=1) as checkpoints:
        for step in range(3):
            os.sync()
            timed(
                "save returns",
                lambda step=step: checkpoints.save(step, **state),
            )
            timed("  and has been read back after", checkpoints.wait)
        like = {f"{name}_like": tree for name, tree in jax.eval_shape(lambda: state).items()}
        count = len(leaves)
        for kept in (state, leaves):
            kept.clear()  # what is restored takes their place in memory
        timed("restore", lambda: checkpoints.restore(**like))
    timed("np.load", np_load)


def _run(folder: Path, arguments: BenchArguments) -> None:
    from checkpoints.convert import convert

    ours = folder / "griffin"
    size = random_checkpoint(ours, arguments.preset)
    gc.collect()
    print(f"{arguments.preset}: {size:,} bytes of bfloat16 parameters", flush=True)
    print("format           before    after     peak  (peak - before) / parameters  seconds")
    for to in arguments.to:
        path = folder / to
        if to != "griffin":
            convert(ours, path, to)
            gc.collect()
        print(_measure(path, arguments.dtype, to, size), flush=True)
        if to != "griffin":
            shutil.rmtree(path)


def _measure(path: Path, dtype: str, to: str, size: int) -> str:
    command = [sys.executable, "-c", READ, str(path), dtype]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise OSError(
            f"reading {path} failed after {time.perf_counter() - started:.0f} s:\n{done.stderr}"
        )
    before, after, peak = (int(word) for word in done.stdout.split()[:3])
    ratio = (peak - before) / (size * (2 if dtype == "float32" else 1))
    return (
        f"{to:15} {before / 1e6:7.0f}  {after / 1e6:7.0f}  {peak / 1e6:7.0f} MB  "
        f"{ratio:.3f}  {float(done.stdout.split()[3]):25.1f}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
