# SPDX-License-Identifier: Apache-2.0
"""Shards by a cluster are those of one machine, byte for byte, whoever is lost."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.ray_nodes import ended_without_a_node, killed, ray_nodes
from tests.training.data.test_shard_writer import files_of
from training.data.ray_shards import write_one
from training.data.shard_folder import DiskFolder, open_folder
from training.data.shard_tasks import Shards
from training.data.shard_writer import _begin, _finish, _manifest, _save_tokenizer, tokenise
from training.data.sources import open_text_source


def begun(corpus: Path, out: str | Path) -> Shards:
    """As `tokenise` begins it."""
    from training.data.documents import load_named_tokenizer

    sources, tokenizer = (
        [open_text_source(f"jsonl:{corpus}/a.jsonl")],
        load_named_tokenizer("bytes"),
    )
    folder, manifest = open_folder(out), _manifest(sources, tokenizer, 3)
    folder.create()
    _begin(folder, manifest)
    return Shards(folder, sources, manifest, _save_tokenizer(tokenizer, folder))


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone") / "out"
    tokenise([f"jsonl:{corpus}/a.jsonl"], "bytes", out, shards=3, workers=1)
    return {name: data for name, data in files_of(out).items() if name != ".lock"}


@pytest.mark.parametrize("url", [False, True], ids=["a folder", "a URL"])
def test_tasks_write_what_one_machine_writes(corpus, alone, tmp_path, url):
    out = tmp_path / "out"
    shards = begun(corpus, f"file://{out}" if url else out)
    written = [write_one(shards, number, str(tmp_path)) for number in (2, 0, 1, 0)]  # one twice
    assert sum(counts[0] for counts in written[:3]) == 1500
    np.testing.assert_array_equal(written[1], written[3])
    _finish(shards, None)
    assert files_of(out) == alone


def test_a_machine_that_does_not_see_the_folder_says_so(corpus, tmp_path):
    shards = begun(corpus, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"does not see the folder .*/out where the shards are to"):
        write_one(shards, 0, "/no/such/directory")
    other = Shards(DiskFolder(tmp_path / "elsewhere"), (), shards.manifest | {"dtype": "x"}, {})
    with pytest.raises(UserError, match="storage that every machine shares"):
        write_one(other, 0, ".")


@pytest.mark.slow  # three nodes, and what runs there imports everything anew
def test_three_nodes_one_lost_and_the_driver_too(corpus: Path, whole: Path, tmp_path: Path):
    """Begun, killed, begun again, and then a node is killed."""
    with ray_nodes(3) as (address, tell):
        command = ["data", "tokenize", f"jsonl:{corpus}/a.jsonl", "--tokenizer", str(corpus)]
        command += ["--shards", "9", "--ray", address, "--out"]

        def check(place: str, folder: Path) -> None:
            def shards() -> dict[Path, int]:
                return {p: p.stat().st_mtime_ns for p in folder.glob("tokens-*.array_record")}

            killed([*command, place], lambda: len(shards()) >= 2)
            finished = shards()
            assert not (folder / "tokens.json").exists()
            output, _ = ended_without_a_node(
                [*command, place], tell, lambda: len(shards()) > len(finished)
            )
            assert "9 shards" in output
            assert finished.items() <= shards().items()
            expected = {name: data for name, data in files_of(whole).items() if name != ".lock"}
            assert {n: data for n, data in files_of(folder).items() if n != ".lock"} == expected

        check(str(tmp_path / "out"), tmp_path / "out")
        tell("add")
        check(f"file://{tmp_path}/url", tmp_path / "url")
