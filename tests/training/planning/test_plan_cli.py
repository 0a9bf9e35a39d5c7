# SPDX-License-Identifier: Apache-2.0
"""`griffin plan`. What needs the TPU compiler is skipped where there is none."""

import json

import pytest

from kernels.measure import tpu_compile
from training.planning import plan_cli

needs_libtpu = pytest.mark.skipif(
    tpu_compile.library() is None, reason="libtpu, the TPU compiler, is not installed here"
)
KEYS = {"fits", "bytes_per_device", "flops", "collectives", "step_seconds", "mfu_bound", "mesh"}


@needs_libtpu
def test_the_command(capsys):
    argv = ["tiny", "--topology", "v5e:2x2", "--serve", "--slots", "4"]
    assert plan_cli.main([*argv, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= KEYS
    with pytest.raises(ValueError, match=r"topology 'v5e:3x7': the TPU compiler refuses it"):
        plan_cli.main(["tiny", "--topology", "v5e:3x7", "--batch", "8"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing", "--topology", "v5e:2x2", "--batch", "8"], "unknown preset 'nothing'"),
        (["tiny", "--topology", "h100:8", "--batch", "8"], "with a chip of v5e, v5p, v6e"),
        (["tiny", "--topology", "v5e:2x2"], "--batch is missing: say how many rows"),
        (["tiny", "--topology", "v5e:2x2", "--slots", "4"], "--slots 4 means nothing without --se"),
        (["tiny", "--topology", "v5e:2x2", "--serve", "--batch", "4"], "--batch 4 means nothing w"),
        (["tiny", "--topology", "v5e:0x2", "--batch", "8"], "expected CHIP:AxB or CHIP:AxBxC"),
        (
            ["tiny", "--topology", "v5e:32x32", "--batch", "8"],
            "v5e have 2 dimensions and at most 1",
        ),
        (
            ["tiny", "--topology", "v5p:4x4", "--batch", "8"],
            "v5p have 3 dimensions and at most 16x",
        ),
        (
            ["tiny", "--topology", "v5e:2x2", "--serve"],
            "--slots is missing: say how many sequences",
        ),
        (
            ["tiny", "--topology", "v5e:2x2", "--serve", "--slots", "4", "--search"],
            "nothing to search",
        ),
    ],
)
def test_bad_input(argv, message):
    with pytest.raises(ValueError, match=message):
        plan_cli.main(argv)


def test_choosing():
    def tried(fits, seconds, size):
        return {"fits": fits, "step_seconds": seconds, "bytes_per_device": {"total": size}}

    slow, fast, large = tried(True, 2.0, 5), tried(True, 1.0, 9), tried(False, None, 99)
    assert plan_cli.choose([slow, large, fast]) is fast
    assert plan_cli.choose([large, tried(False, None, 100)]) is large
