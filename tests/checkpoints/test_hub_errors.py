# SPDX-License-Identifier: Apache-2.0
"""What a user reads when a model cannot be fetched: one line, with what to do."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from checkpoints import hub
from checkpoints.load import open_checkpoint
from recurrentgemma.errors import MissingExtra, UserError
from tests.checkpoints.fake_hub import FakeHub, Files, cache, commit_of

NAME = "google/recurrentgemma-2b-it"
COMMIT = commit_of("cached")


def error_of(named: str) -> str:
    with pytest.raises(UserError) as caught:
        open_checkpoint(named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_when_the_hub_is_gone_the_copy_is_used(
    server: FakeHub, formats: dict[str, Files], monkeypatch: pytest.MonkeyPatch
):
    commit = server.put("some/model", formats["huggingface"])
    open_checkpoint("some/model")
    server.broken["some/model"] = 503
    assert open_checkpoint("some/model").path.name == commit
    server.broken["some/new"] = 503
    assert "answers 503, and there is no whole copy in" in error_of("some/new")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert open_checkpoint("some/model").path.name == commit
    message = error_of("some/new")
    assert "there is no folder of that path here, 127.0.0.1:9 cannot be reached (" in message
    assert "look at the network and at HF_ENDPOINT" in message


def test_offline_and_not_there(offline: Path, formats: dict[str, Files]):
    message = error_of("some/model")
    assert message.startswith("some/model: there is no folder of that path here, HF_HUB_OFFLINE is")
    assert "unset it, or download the model where there is a network" in message
    cache(offline, NAME, {"config.json": formats["huggingface"]["config.json"]}, commit=COMMIT)
    assert "holds no weights" in error_of(NAME)
    assert "HF_HUB_OFFLINE is set" in error_of(f"{NAME}@v2")


def test_a_download_that_was_interrupted(
    server: FakeHub, formats: dict[str, Files], monkeypatch: pytest.MonkeyPatch
):
    server.put("some/model", formats["huggingface"])
    hub.local_path("some/model", "small")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "there is no whole copy" in error_of("some/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert open_checkpoint("some/model").tensors


def test_gated(server: FakeHub, formats: dict[str, Files], monkeypatch: pytest.MonkeyPatch):
    server.put(NAME, formats["huggingface"])
    server.gated.add(NAME)
    message = error_of(NAME)
    assert message.startswith(f"{NAME}: its licence must be accepted first: log in at http://127.0")
    assert f"/{NAME} and accept it there, then log in here with `hf auth login`" in message
    assert "set HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "hf_some")
    message = error_of(NAME)
    assert "with the account that your token belongs to" in message
    assert "HF_TOKEN" not in message


def test_unknown_private_or_refused(server: FakeHub, monkeypatch: pytest.MonkeyPatch):
    message = error_of("google/recurrentgema-2b-it")
    assert "there is no folder of that path here, and 127.0.0.1" in message
    assert "shows no model of that name (did you mean 'google/recurrentgemma-2b-it'?)" in message
    assert "if it is a private one, log in with an account that may see it" in message
    assert "did you mean" not in error_of("nobody/nothing")
    server.broken["some/model"] = 403
    assert "does not let your token read it" in error_of("some/model")
    server.broken["some/model"] = 429
    assert "has had too many requests from here" in error_of("some/model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    server.bad_token = True
    message = error_of("some/model")
    assert "does not take your token (Invalid credentials in Authorization header)" in message


def test_a_full_disk(server: FakeHub, formats: dict[str, Files], monkeypatch: pytest.MonkeyPatch):
    server.put("some/model", formats["huggingface"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    message = error_of("some/model")
    assert "GB to download, and 0.00 GB are free on the disk of" in message
    assert "set HF_HOME to a folder of another disk" in message
    assert "model.safetensors" not in server.downloads()
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (403, "accept its licence at https://www.kaggle.com/models/google/recurrentgemma, and log"),
        (404, "there is no such model, variation or version; see https://www.kaggle.com/models/"),
        (500, "Kaggle answers 500; try again later"),
        (requests.ConnectionError(), "cannot be reached; a copy here is found by its version, kag"),
        ("UnauthenticatedError", "log in to Kaggle first"),
        ("DataCorruptionError", "a file arrived damaged; try again"),
        (OSError(28, "No space left on device"), "the disk of the cache is full"),
    ],
)
def test_errors_of_kaggle(kagglehub: SimpleNamespace, error, message: str):
    if isinstance(error, int):
        error = requests.HTTPError(response=SimpleNamespace(status_code=error))  # type: ignore
    elif isinstance(error, str):
        error = getattr(kagglehub.exceptions, error)()

    def model_download(handle: str) -> str:
        raise error

    kagglehub.model_download = model_download
    assert message in error_of("kaggle:google/recurrentgemma/flax/2b-it")


def test_kagglehub_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtra, match=r"pip install 'griffin-lm\[kaggle\]'"):
        open_checkpoint("kaggle:google/recurrentgemma/flax/2b-it")
