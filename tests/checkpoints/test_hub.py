# SPDX-License-Identifier: Apache-2.0
"""Models by name: out of a local cache without a network, and from a small hub on this machine."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import recurrentgemma as rg
from checkpoints import adapters, hub
from checkpoints.load import config_of, load_checkpoint, open_checkpoint
from griffin_lm import main as griffin
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from tests.checkpoints.conftest import (
    assert_same_bits,
    random_params,
    small_adapters,
    small_config,
)
from tests.checkpoints.fake_hub import (
    FakeHub,
    Files,
    cache,
    commit_of,
    files_in,
)
from tests.checkpoints.test_hub_errors import error_of
from training.data.documents import load_named_tokenizer

CONFIG = small_config(vocab_size=261)
NAME = "google/recurrentgemma-2b-it"
COMMIT = commit_of("cached")


def params_at(named: str) -> dict[str, Any]:
    return dict(flat_params(load_checkpoint(named)[0]))


def test_out_of_a_local_cache(offline: Path, formats: dict[str, Files]):
    folder = cache(offline, NAME, formats["huggingface"], commit=COMMIT)
    assert hub.local_path(NAME) == folder
    assert hub.pinned(NAME) == f"{NAME}@{COMMIT}"
    assert hub.pinned("some/path.pt") == "some/path.pt"
    for named in (NAME, f"{NAME}@main", f"{NAME}@{COMMIT}", f"hf:{NAME}"):
        assert hub.local_path(named) == folder
    lm = rg.load(NAME)
    assert lm.config == CONFIG
    assert lm.tokenizer is not None


def test_the_verbs_take_a_name(offline: Path, formats: dict[str, Files], capsys, tmp_path: Path):
    cache(offline, NAME, formats["huggingface"], commit=COMMIT)
    assert griffin(["generate", NAME, "To be", "--max-tokens", "3"]) == 0
    assert griffin(["convert", f"{NAME}@main", "ours", "--to", "griffin"]) == 0
    assert capsys.readouterr().out.count(NAME) == 1
    assert griffin(["info", NAME, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert_same_bits(params_at("ours"), random_params(CONFIG))
    assert griffin(["info", "ours", "--json"]) == 0
    assert facts == json.loads(capsys.readouterr().out)
    assert griffin(["convert", "ours", NAME, "--to", "huggingface"]) == 0  # a destination is a path
    assert (tmp_path / NAME / "model.safetensors").is_file()
    assert open_checkpoint(NAME).path == Path(NAME)  # and now there is a folder of that path
    assert open_checkpoint(f"hf:{NAME}").path.name == COMMIT


def test_info_and_a_tokenizer_leave_the_weights(server: FakeHub, formats: dict[str, Files]):
    server.put("some/model", formats["huggingface"])
    assert config_of("some/model") == CONFIG
    assert load_named_tokenizer("some/model").vocab_size == 261
    assert "model.safetensors" not in server.downloads()
    server.put("some/ours", formats["griffin"])
    assert config_of("some/ours") == CONFIG
    assert not any(path.startswith("params/") for path in server.downloads())


def test_a_revision(server: FakeHub, formats: dict[str, Files]):
    old = server.put("some/model", formats["run"])
    new = server.put("some/model", formats["huggingface"])
    tried = server.put("some/model", formats["griffin"], branch="try/this")
    for tail, commit in (("", new), (f"@{old}", old), ("@try/this", tried)):
        assert open_checkpoint(f"some/model{tail}").path.name == commit
    assert hub.pinned("some/model@try/this") == f"some/model@{tried}"
    assert "it has no branch, tag or commit 'v9'" in error_of("some/model@v9")
    assert "it has no branch, tag or commit" in error_of(f"some/model@{commit_of('other')}")


def test_a_path_that_is_mistyped_asks_nobody(server: FakeHub, tmp_path: Path, capsys):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    to = ["--to", "griffin"]
    for verb, *tail in (["generate", "x"], ["convert", "out", *to], ["merge", "runs/demmo", "out"]):
        assert griffin([verb, "runs/demmo", *tail]) == 2
        message = capsys.readouterr().err
        assert message.startswith(
            "error: runs/demmo: no such file or directory (did you mean 'demo'?)"
        )
        assert "on Hugging Face's hub is given as hf:runs/demmo" in message
    assert griffin(["info", "runs/demmo"]) == 2
    message = capsys.readouterr().err
    assert "'runs/demmo' is not a path either (did you mean 'demo'?)" in message
    with pytest.raises(UserError, match="as a string, not as a Path"):
        rg.load(Path("google/recurrentgemma-2b"))
    assert server.asked == []


def test_adapters_by_name(server: FakeHub, formats: dict[str, Files], tmp_path: Path, capsys):
    """A repository of PEFT's names its base by name, too."""
    base = server.put("some/base", formats["huggingface"])
    server.put("some/base", formats["run"])  # a newer one, which is not the adapters' base
    adapters.write(tmp_path / "peft", small_adapters(f"some/base@{base}"))
    server.put("me/lora", files_in(tmp_path / "peft") | {"README.md": b"#", "optimizer.pt": b"x"})
    merged = params_at("me/lora")
    assert {"README.md", "optimizer.pt"}.isdisjoint(server.downloads())
    assert griffin(["merge", f"some/base@{base}", "me/lora", "merged"]) == 0
    assert "taken on trust" not in capsys.readouterr().out
    assert_same_bits(params_at("merged"), merged)
    assert griffin(["merge", "some/base", "me/lora", "newer"]) == 0
    assert "taken on trust" in capsys.readouterr().out
    assert config_of("me/lora") == CONFIG
    del server.commits["some/base"]
    shutil.rmtree(tmp_path / "hub")
    message = error_of("me/lora")
    assert "the base of its adapters: some/base@" in message
    assert "or say where it is: `griffin merge BASE" in message


def test_adapters_name_their_base_as_peft_does(tmp_path: Path):
    adapters.write(tmp_path / "peft", small_adapters(f"some/base@{COMMIT}"))
    written = json.loads((tmp_path / "peft" / adapters.CONFIG).read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == ("some/base", COMMIT)
    assert adapters.read(tmp_path / "peft").base == f"some/base@{COMMIT}"


def test_kaggle(kagglehub: SimpleNamespace, formats: dict[str, Files], tmp_path: Path):
    folder = tmp_path / "models" / "google" / "recurrentgemma" / "flax" / "2b-it" / "3"
    for path, content in formats["deepmind"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    asked = []

    def model_download(handle: str) -> str:
        asked.append(handle)
        return str(folder)

    kagglehub.model_download = model_download
    name = "kaggle:google/recurrentgemma/flax/2b-it"
    assert hub.pinned(name) == f"{name}/3"
    assert_same_bits(params_at(f"{name}/3"), random_params(CONFIG))
    assert asked == ["google/recurrentgemma/flax/2b-it", "google/recurrentgemma/flax/2b-it/3"]


def test_bars_on_a_terminal_alone(formats: dict[str, Files], tmp_path: Path):
    """As a process, with the environment that users set."""
    server = FakeHub()
    server.put("some/model", formats["huggingface"])
    program = "import sys\nfrom checkpoints.hub import local_path\nprint(local_path(sys.argv[1]))"
    with server.serving() as url:
        environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
        environment |= {"PYTHONWARNINGS": "error::UserWarning", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", program, "some/model"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(str(tmp_path / "home" / "hub" / "models--some--model"))
        environment["HF_HOME"] = str(tmp_path / "other")
        shown = on_a_terminal(command, environment)
    assert f"some/model: 0.00 GB into {tmp_path / 'other' / 'hub'}" in shown
    assert "100%" in shown


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What a process writes to a terminal, which its stderr is."""
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=writer, env=environment):
        os.close(writer)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while part := os.read(reader, 4096):
                shown += part
    os.close(reader)
    return shown.decode()
