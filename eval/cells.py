# SPDX-License-Identifier: Apache-2.0
"""Finished cells of a study, each a JSON file of what was computed and of which settings.

    cells = Cells(folder)
    if (numbers := cells.take("adam-seed0", settings)) is None:
        numbers = cells.keep("adam-seed0", settings, {"accuracy": 0.9})

A cell is found again by its name and by all settings that change its numbers, so that a study which
was stopped goes on, one with more seeds computes only those, and a changed setting computes anew.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints.files import naming, new_file
from recurrentgemma.errors import UserError


class Cells:
    """The finished cells in a folder, which is made."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The settings and numbers of a cell; None where it is not finished.

        Raises UserError: its file is damaged.
        """
        path = self._path(name, settings)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UserError(
                f"{path} is damaged ({error}): remove it, and it is computed anew"
            ) from None

    def keep(
        self, name: str, settings: Mapping[str, Any], numbers: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a cell; returns it as `take` will."""
        path = self._path(name, settings)
        text = json.dumps({**settings, **numbers}, indent=1)
        with naming(path), new_file(path) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8")
        return json.loads(text)

    def all(self) -> list[dict[str, Any]]:
        """Every finished cell, by file name."""
        return [json.loads(path.read_text("utf-8")) for path in sorted(self.folder.glob("*.json"))]

    def _path(self, name: str, settings: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / f"{name}.{digest}.json"
