# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""The linear scan beside DeepMind's and a loop in C, in one interleaved run (docs/kernels.md).

Runs in the peers' environment (formats.py says how to make it; this needs recurrentgemma alone),
and needs gcc, which compiles scan.c:

    their-python tests/peers/scan.py        2 minutes

Milliseconds, float32, forward and forward with gradients, and each as a multiple of ours.
"""

import argparse
import ctypes
import functools
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
from kernels.linear_scan import linear_scan
from kernels.measure.bench import interleaved

SHAPES = [(1, 2048, 1024), (8, 2048, 1024), (1, 8192, 2560)]
ROUNDS, LEAST = 9, 0.1


def candidates() -> dict:
    from recurrentgemma.common import ScanType  # DeepMind's: it stands first on the path
    from recurrentgemma.jax.scan import linear_scan as deepmind_scan

    def deepmind(kind):
        return lambda x, a: deepmind_scan(x, a, None, scan_type=kind, unroll=1)[0]

    return {
        "ours": lambda x, a: linear_scan(x, a)[0],
        "DeepMind native, unroll=1": deepmind(ScanType.LINEAR_NATIVE),
        "DeepMind associative": deepmind(ScanType.ASSOCIATIVE_NATIVE),
    }


def compile_c(folder: str) -> ctypes.CDLL:
    """scan.c as a library."""
    library = pathlib.Path(folder) / "scan.so"
    source = pathlib.Path(__file__).with_suffix(".c")
    flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def c_loops(loops: ctypes.CDLL, x: np.ndarray, a: np.ndarray, g: np.ndarray, threads: int):
    y, dx, da = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    address = lambda v: v.ctypes.data_as(ctypes.POINTER(ctypes.c_float))  # noqa: E731
    sizes = [ctypes.c_long(n) for n in x.shape]

    def forward():
        loops.scan_forward(*map(address, (x, a, y)), *sizes, threads)
        return y

    def both():
        forward()
        loops.scan_backward(*map(address, (g, a, y, dx, da)), *sizes, threads)
        return y, dx, da

    return forward, both


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loops = compile_c(folder)
    for shape in SHAPES:
        random = np.random.default_rng(0)
        x, g = (random.standard_normal(shape, dtype=np.float32) for _ in range(2))
        a = random.uniform(0.9, 0.999, shape).astype(np.float32)
        arrays = [jnp.asarray(v) for v in (x, a, g)]
        c_forward, c_both = c_loops(loops, x, a, g, 2)
        forward, both = {"C, 2 threads": c_forward}, {"C, 2 threads": c_both}
        for name, scan in candidates().items():

            def gradients(x, a, g, scan=scan):
                y, pullback = jax.vjp(scan, x, a)
                return y, *pullback(g)

            forward[name] = functools.partial(jax.jit(scan), *arrays[:2])
            both[name] = functools.partial(jax.jit(gradients), *arrays)
            for got, want in zip(both[name](), c_both(), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
        times = [interleaved(runs, ROUNDS, LEAST) for runs in (forward, both)]
        for name in forward:
            shown = [f"{1e3 * t[name]:.2f} ({t[name] / t['ours']:.2f})" for t in times]
            print(f"| {' x '.join(map(str, shape))} | {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
