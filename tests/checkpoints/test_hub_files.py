# SPDX-License-Identifier: Apache-2.0
"""Which files of a repository are downloaded, and which repositories are refused before that."""

import json

import pytest

from checkpoints.load import load_checkpoint, open_checkpoint
from recurrentgemma.params import flat_params
from tests.checkpoints.conftest import assert_same_bits, random_params, small_config
from tests.checkpoints.fake_hub import FakeHub, Files
from tests.checkpoints.test_hub_errors import error_of

CONFIG = small_config(vocab_size=261)


@pytest.mark.parametrize("form", ["griffin", "huggingface", "shards", "run", "deepmind"])
def test_only_what_is_read_is_downloaded(server: FakeHub, formats: dict[str, Files], form: str):
    commit = server.put("some/model", formats[form])
    checkpoint = open_checkpoint("some/model")
    sent = set(server.downloads())
    assert not sent & {"README.md", "pytorch_model.bin", "model.Q4.gguf"}
    assert not any(path.startswith(("checkpoint-100/", "checkpoints/5/")) for path in sent)
    config = None if checkpoint.config else CONFIG
    assert_same_bits(
        dict(flat_params(load_checkpoint(checkpoint, config)[0])), random_params(CONFIG)
    )
    first = len(server.asked)
    open_checkpoint("some/model")
    assert server.asked[first:] == ["GET /api/models/some/model"]  # what is its newest?
    open_checkpoint(f"some/model@{commit}")
    assert len(server.asked) == first + 1  # which needs no answer here


def test_a_repository_that_is_not_read_here(server: FakeHub, formats: dict[str, Files]):
    config = json.loads(formats["huggingface"]["config.json"])
    other = formats["huggingface"] | {
        "config.json": json.dumps(config | {"model_type": "gpt2"}).encode()
    }
    server.put("some/gpt", other)
    message = error_of("some/gpt")
    assert message == (
        "some/gpt: not a RecurrentGemma: model_type is 'gpt2'; RecurrentGemma has "
        "'recurrent_gemma', always"
    )
    assert "model.safetensors" not in server.downloads()
    pickles = {p: c for p, c in formats["huggingface"].items() if "safetensors" not in p}
    server.put("some/pickles", {p: c for p, c in pickles.items() if "gguf" not in p})
    message = error_of("some/pickles")
    assert "holds no weights that are read here (README.md, " in message
    assert "save_pretrained writes safetensors" in message
    server.put("some/gguf", {"model.Q4.gguf": b"GGUF"})
    assert "take the repository it was made from" in error_of("some/gguf")
