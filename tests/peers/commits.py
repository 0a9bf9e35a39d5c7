# SPDX-License-Identifier: Apache-2.0
"""Has speed suffered? Two checkouts of this project on the same work, in turn.

    python tests/peers/commits.py OLD NEW     about 15 minutes on two quiet cores

OLD and NEW are checkouts, each with its .venv. A cell runs in a process of each; the two take turns
for `--rounds` rounds, so that what else the machine does meets both. Printed is the median of the
rounds' ratios, old seconds over new (above 1: NEW is faster), with its quartiles.

Expected of a change that is about something else: every median between 0.97 and 1.03.
"""

import argparse
import dataclasses
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Size:
    """A model of the peers' benchmark, by the names that ours.py reads."""

    width: int
    depth: int
    mlp: int
    lru: int
    heads: int
    hd: int
    vocab: int
    window: int


SIZES = {
    "tiny": Size(256, depth=6, mlp=768, lru=256, heads=4, hd=64, vocab=8192, window=256),
    "small": Size(768, depth=12, mlp=2304, lru=1024, heads=8, hd=96, vocab=32000, window=1024),
}
CELLS = {
    "train tiny f32": ("tiny", "f32", "train", {"B": 4, "T": 512}),
    "train tiny bf16": ("tiny", "bf16", "train", {"B": 4, "T": 512}),
    "train small bf16": ("small", "bf16", "train", {"B": 1, "T": 512}),
    "prefill tiny f32": ("tiny", "f32", "prefill", {"P": 4096}),
    "prefill small bf16": ("small", "bf16", "prefill", {"P": 1025}),
    "decode tiny bf16": ("tiny", "bf16", "decode", {"B": 8, "P": 1025, "n": 16}),
    "decode small f32": ("small", "f32", "decode", {"B": 1, "P": 1025, "n": 4}),
    "generate tiny f32": ("tiny", "f32", "generate", {"P": 2000, "n": 128}),
    "read a prompt tiny f32": ("tiny", "f32", "generate", {"P": 8000, "n": 1}),
    "score tiny f32": ("tiny", "f32", "score", {"P": 8000}),
}


def prepare(cell: str) -> Callable[[], object]:
    """The work of a cell, by the code of the checkout that Python finds first."""
    size, dtype, task, work = CELLS[cell]
    ours = importlib.import_module("tests.peers.ours")
    model = ours.Ours(SIZES[size], dtype)
    if task in ("train", "prefill", "decode"):
        return getattr(model, f"prep_{task}")(**work)[0]
    nnx = importlib.import_module("flax.nnx")
    lm = importlib.import_module("recurrentgemma").LanguageModel(
        nnx.merge(*model.params(model.dtype))
    )
    ids = ours.random_tokens(SIZES[size], 1, work["P"])[0].tolist()
    if task == "score":
        return lambda: lm.score(ids)
    return lambda: lm.complete([ids], max_tokens=work["n"])


def serve(cell: str) -> None:
    """In a checkout's process: a line in, the seconds of one run out."""
    run = prepare(cell)
    run()
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


class Checkout:
    """A process of one checkout, which runs a cell once a line."""

    def __init__(self, folder: Path, cell: str):
        self._process = subprocess.Popen(
            [str(folder / ".venv/bin/python"), str(Path(__file__).resolve()), "--cell", cell],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"},
        )
        answer = self._read()
        assert answer == "ready", answer

    def run(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", type=Path, nargs="*", metavar="OLD NEW")
    parser.add_argument("--only", nargs="*", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cell", choices=list(CELLS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        return serve(arguments.cell)
    if len(arguments.checkouts) != 2:
        parser.error("give two checkouts, OLD and NEW")
    print("| cell | old ms | new ms | old / new | quartiles |\n|---|---|---|---|---|")
    for cell in arguments.only:
        both = [Checkout(folder.resolve(), cell) for folder in arguments.checkouts]
        rounds = []
        for number in range(arguments.rounds):
            order = (0, 1) if number % 2 else (1, 0)
            seconds = {which: both[which].run() for which in order}
            rounds.append((seconds[0], seconds[1]))
        for checkout in both:
            checkout.close()
        old, new = (statistics.median(column) * 1e3 for column in zip(*rounds, strict=True))
        low, middle, high = statistics.quantiles([a / b for a, b in rounds], n=4)
        print(
            f"| {cell} | {old:.1f} | {new:.1f} | **{middle:.3f}** | {low:.3f} to {high:.3f} |",
            flush=True,
        )
    return None


if __name__ == "__main__":
    main()
