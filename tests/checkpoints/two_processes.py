# SPDX-License-Identifier: Apache-2.0
"""One of two processes with four fake devices each, that share one run. Not a test: see
test_processes.py, which starts them.

    python two_processes.py INDEX PORT RUN_DIR
"""

import argparse
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax

NAMES = {
    "embedder/input_embedding": (256, 64),  # 8 parts, each too large for Orbax's index
    "blocks.0/mlp_block/ffw_gate/weight": (192, 64),
    "blocks.0/mlp_block/ffw_gate/bias": (192,),
    "final_norm/scale": (24,),
}


def values(step: int) -> dict[str, Any]:
    """What every process and the test know of a step."""
    import numpy as np

    random = np.random.default_rng(step)
    arrays = {name: random.standard_normal(shape, np.float32) for name, shape in NAMES.items()}
    moments = {name: random.standard_normal(shape, np.float32) for name, shape in NAMES.items()}
    return {"params": arrays, "opt_state": {"mu": moments, "count": np.int32(step)}}


def placed(tree: Any, mesh: Any) -> Any:
    """The tree over the mesh, as the model's parameters and their moments lie."""
    from recurrentgemma import sharding

    return jax.tree.map(
        lambda x, where: jax.make_array_from_callback(x.shape, where, lambda index: x[index]),
        tree,
        sharding.shardings(mesh, tree),
    )


def assert_same(restored: Any, step: int) -> None:
    """Every shard that this process holds has the bits of that step."""
    import numpy as np

    expected = values(step)
    pairs = [
        *((array, expected["params"][name]) for name, array in restored.params.items()),
        *zip(
            jax.tree.leaves(restored.opt_state), jax.tree.leaves(expected["opt_state"]), strict=True
        ),
    ]
    for array, whole in pairs:
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[shard.index])


def main(index: int, port: str, run_dir: Path) -> None:
    from jax.experimental import multihost_utils

    from checkpoints import step as step_files
    from checkpoints import store
    from recurrentgemma.sharding import MeshConfig, make_mesh

    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Gloo's threads write to stdout, in the middle of a line, too

    def say(*words: object) -> None:
        print(*words, file=output, flush=True)

    mixed = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    other = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))

    def like(mesh: Any) -> dict[str, Any]:
        tree = placed(values(0), mesh)
        return {"params_like": tree["params"], "opt_state_like": tree["opt_state"]}

    def save(step: int) -> None:
        tree = placed(values(step), mixed)
        checkpoints.save(
            step, tree["params"], opt_state=tree["opt_state"], metrics={"loss": 1 / step}
        )

    checkpoints = store.Checkpoints(run_dir, keep=3, best="loss", report=say)
    restored = checkpoints.restore(**like(mixed))
    assert restored is not None
    assert restored.step == 1  # one process wrote it
    assert_same(restored, 1)
    save(2)
    save(3)
    checkpoints.wait()
    for mesh in (mixed, other):
        restored = checkpoints.restore(**like(mesh))
        assert restored is not None
        assert restored.step == 3
        assert_same(restored, 3)
    say("saved and restored")

    # The part of process 1 is damaged: neither uses the step.
    if index == 0:
        folder = run_dir / "checkpoints" / "3" / "opt_state" / "ocdbt.process_1" / "d"
        largest = max(folder.iterdir(), key=lambda file: file.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:10_000])
    multihost_utils.sync_global_devices("damaged")
    restored = checkpoints.restore(**like(other))
    assert restored is not None
    assert restored.step == 2
    assert_same(restored, 2)
    assert checkpoints.steps() == [1, 2]

    # Process 1 alone cannot read it back: neither counts the step.
    read_back = step_files.read_back

    def unreadable(*_arguments: Any, **_options: Any) -> None:
        raise OSError(5, "Input/output error")

    if index == 1:
        step_files.read_back = unreadable
    save(3)
    try:
        checkpoints.wait()
    except OSError as error:
        say("not read back:", error)
    step_files.read_back = read_back
    assert checkpoints.steps() == [1, 2]
    multihost_utils.sync_global_devices("not read back")
    if index == 0:
        shutil.rmtree(run_dir / "checkpoints" / "3")

    # Process 1 alone cannot write: neither saves the step, and both hear of it soon.
    if index == 1:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, unlimited[1]))
    started = time.monotonic()
    save(3)
    try:
        checkpoints.wait()
    except OSError as error:
        say("failed", f"{time.monotonic() - started:.1f}", error)
    if index == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert checkpoints.steps() == [1, 2]
    save(3)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3]

    # Killed while the next one is written.
    if index == 0:

        def wait_for_ever(*_arguments: Any) -> None:
            say("writing")
            time.sleep(600)

        step_files.write_checksums = wait_for_ever
    save(4)
    time.sleep(600)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=int)
    parser.add_argument("port")
    parser.add_argument("run_dir", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{arguments.port}", 2, arguments.index)
    try:
        main(**vars(arguments))
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at once: an orderly exit would wait for the other process
