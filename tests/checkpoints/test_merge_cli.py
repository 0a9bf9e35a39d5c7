# SPDX-License-Identifier: Apache-2.0
"""`griffin merge`: what it says, and of which base it takes the weights on trust."""

from pathlib import Path

import numpy as np
import pytest

from checkpoints import adapters, store
from checkpoints.load import load_checkpoint
from checkpoints.merge_cli import main
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import random_params, small_adapters, small_config


@pytest.mark.parametrize(
    ("named", "trusted"),
    [
        ("", False),  # nothing is known
        ("BASE", False),
        ("google/base", False),  # a name of Hugging Face's, and the folder has it
        ("google/recurrentgemma-2b", True),
        ("ELSEWHERE", True),
    ],
)
def test_the_base_that_the_adapters_name(base: Path, tmp_path: Path, capsys, named, trusted):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = {"BASE": str(base), "ELSEWHERE": str(elsewhere)}
    lora = small_adapters(paths.get(str(named), str(named)))
    adapters.write(tmp_path / "peft", lora)
    assert main([str(base), str(tmp_path / "peft"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert ("has the same weights is taken on trust" in out) == trusted
    count = sum(array.size for array in random_params(small_config()).values())
    assert f"{base} with {tmp_path / 'peft'} -> {tmp_path / 'out'} (griffin): {count:,} par" in out
    if named:
        return
    merged = flat_params(load_checkpoint(tmp_path / "out")[0])
    layer, (a, b) = next(iter(lora.pairs.items()))
    want = random_params(small_config())[f"{layer}/weight"] + 1.5 * (a @ b).T
    np.testing.assert_allclose(merged[f"{layer}/weight"], want, rtol=1e-5, atol=1e-5)


def test_the_newest_step_of_a_run_is_the_run(tmp_path: Path, capsys):
    run = tmp_path / "run"
    store.write_run_config(run, small_config(), {})
    for step in (3, 4):
        run_steps.save(run, step, random_params(small_config()))
    for step in (3, 4):
        folder = tmp_path / f"peft-{step}"
        adapters.write(folder, small_adapters(str(run / "checkpoints" / str(step))))
        assert main([str(run), str(folder), str(tmp_path / f"out-{step}")]) == 0
        assert ("taken on trust" in capsys.readouterr().out) == (step == 3)


def test_what_is_no_adapter_is_refused(base: Path, tmp_path: Path):
    with pytest.raises(UserError, match="holds no adapters; expected"):
        main([str(base), str(base), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
