# SPDX-License-Identifier: Apache-2.0
"""Whether a user means a path or a model's name on a hub. Touches no network.

    runs/demo, ./demo, weights.pt         a path: there is one, or it can be nothing else
    google/recurrentgemma-2b-it           a model on Hugging Face's hub; NAME@REVISION: a branch, a
                                          tag or a commit of it
    hf:google/recurrentgemma-2b-it        the same, where a folder of that path is in the way
    kaggle:google/recurrentgemma/flax/2b-it       DeepMind's own, on Kaggle; .../VERSION

A string may be a name; a pathlib.Path never is. A name has one slash, as `runs/demo` has. So what
lies in `runs`, or in a folder that holds runs of ours, is a path without asking any hub.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Literal

from recurrentgemma.errors import UserError, did_you_mean

KNOWN = tuple(f"google/recurrentgemma-{size}" for size in ("2b", "2b-it", "9b", "9b-it"))
"""The released models, for suggestions."""
HUGGING_FACE = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII
)
KAGGLE = re.compile(r"(?P<repository>[\w-]+/[\w.-]+/[\w-]+/[\w.-]+)(/(?P<revision>\d+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
URL = re.compile(r"(hf:/+|(https?:/+)?(huggingface\.co|hf\.co)/)([^/]+/[^/]+).*")
FILES = (".safetensors", ".pt", ".pth", ".bin", ".gguf", ".json", ".jinja", ".model", ".npz")
FRAMEWORKS = ("flax", "pytorch", "transformers")  # of Kaggle's, in which there is what we read


@dataclasses.dataclass(frozen=True)
class Name:
    """A model on a hub. revision "" is its newest."""

    hub: Literal["huggingface", "kaggle"]
    repository: str
    revision: str = ""

    def __str__(self) -> str:
        if self.hub == "kaggle":
            return f"kaggle:{self.repository}" + (f"/{self.revision}" if self.revision else "")
        return self.repository + (f"@{self.revision}" if self.revision else "")

    @property
    def is_exact(self) -> bool:
        """Whether it will always be the same model: a commit, or a version of Kaggle's."""
        if self.hub == "kaggle":
            return bool(self.revision)
        return bool(COMMIT.fullmatch(self.revision))

    @property
    def short(self) -> str:
        """For the name of a folder: `recurrentgemma-2b-it`."""
        parts = self.repository.split("/")
        return f"{parts[1]}-{parts[3]}" if self.hub == "kaggle" else parts[-1]

    def same_model(self, other: "Name") -> bool:
        """Whether both name one model, perhaps at two revisions."""
        return (self.hub, self.repository) == (other.hub, other.repository)


def read_name(named: str | Path) -> Name | None:
    """The name that a user's string is; None for a path, whether it exists or not.

    Raises:
      UserError: it begins like a name and is not one.
    """
    if isinstance(named, Path) or os.path.lexists(named):
        return None
    if named.startswith("kaggle:"):
        match = KAGGLE.fullmatch(named.removeprefix("kaggle:"))
        if match is None or match["repository"].split("/")[2].lower() not in FRAMEWORKS:
            raise UserError(
                f"{named!r}: expected kaggle:OWNER/MODEL/FRAMEWORK/VARIATION, perhaps with "
                f"/VERSION, and as FRAMEWORK {', '.join(FRAMEWORKS)}; such as "
                "kaggle:google/recurrentgemma/flax/2b-it"
            )
        return Name("kaggle", match["repository"], match["revision"] or "")
    if url := URL.fullmatch(named):
        raise UserError(f"{named!r}: a model on the hub is given by its name: {url[4]}")
    explicit = named.startswith("hf:")
    match = HUGGING_FACE.fullmatch(named.removeprefix("hf:"))
    if match is None or "--" in match["repository"] or ".." in match["repository"]:
        if explicit:
            raise UserError(f"{named!r}: expected hf:OWNER/NAME, perhaps with @REVISION")
        return None
    name = Name("huggingface", match["repository"], match["revision"] or "")
    return name if explicit or name.revision or not _is_path(name.repository) else None


def title(named: str | Path) -> str:
    """What to call a model: the last part of its path, or its name without the revision."""
    name = read_name(named)
    return Path(named).resolve().name if name is None else name.repository


def short_title(named: str | Path) -> str:
    """The same for a folder's name: one word."""
    name = read_name(named)
    return Path(named).resolve().name if name is None else name.short


def hint(named: str | Path) -> str:
    """What a user may have meant by a path that does not exist, to be put behind that."""
    text, parent = str(named), Path(named).parent
    near = did_you_mean(Path(named).name, os.listdir(parent) if parent.is_dir() else ())
    if not HUGGING_FACE.fullmatch(text):
        return near or near_known(text)
    how = "as a string, not as a Path" if isinstance(named, Path) else f"as hf:{text}"
    return f"{near}; a model of that name on Hugging Face's hub is given {how}"


def near_known(text: str) -> str:
    """The released model whose name is nearly this one, as did_you_mean says it."""
    word = text.split("@")[0].lower()
    return "" if word in KNOWN else did_you_mean(word, KNOWN)


def with_revision(base: str, revision: str | None) -> str:
    """The base of adapters as one string, from the two fields that PEFT has for it."""
    name = read_name(base) if base and revision else None
    if name is None or name.revision:
        return base
    return str(dataclasses.replace(name, revision=revision or ""))


def without_revision(base: str) -> tuple[str, str | None]:
    """The opposite: (what base it is, at which revision)."""
    name = read_name(base) if base else None
    if name is None or name.hub != "huggingface":
        return base, None
    return name.repository, name.revision or None


def _is_path(text: str) -> bool:
    """Whether a text of the form A/B that does not exist is a path all the same."""
    folder = Path(text).parts[0]
    if text.lower().endswith(FILES) or folder == "runs":
        return True
    entries = os.listdir(folder) if os.path.isdir(folder) else ()
    return any(os.path.isdir(Path(folder, entry, "checkpoints")) for entry in entries)
