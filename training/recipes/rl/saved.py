# SPDX-License-Identifier: Apache-2.0
"""How far a run in training is: arrays and what was logged, in one file that is there whole or not
at all.

    saved = Saved(folder, identity)             # identity: all that changes the run's numbers
    state, kept = saved.taken(state)            # as it was started, and {} where nothing is kept
    saved.keep(state, {"records": records})     # at most every KEPT_EVERY seconds
    saved.remove()                              # when the run is over
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from checkpoints.files import naming, new_file
from recurrentgemma.errors import UserError

KEPT_EVERY = 60.0  # seconds


class Saved:
    """A file of the folder, which is made when something is kept."""

    def __init__(self, folder: Path, identity: Any, *, every: float = KEPT_EVERY):
        text = json.dumps(identity, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path, self._every, self._last = folder / f"{name}.safetensors", every, time.monotonic()

    def taken(self, state: Any) -> tuple[Any, dict[str, Any]]:
        """A state of this structure, and the values, as they were kept last; else the state as it
        is, and {}.

        Raises UserError: the file is damaged, or of another structure.
        """
        if not self.path.is_file():
            return state, {}
        leaves, structure = jax.tree.flatten(state)
        try:
            with safe_open(self.path, framework="np") as file:
                values = json.loads((file.metadata() or {})["values"])
                arrays = [file.get_tensor(f"{i}") for i in range(len(leaves))]
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}): remove it, and begin anew"
            ) from None
        if any(new.shape != old.shape for new, old in zip(arrays, leaves, strict=True)):
            raise UserError(f"{self.path} is of another run: remove it, and begin anew")
        kept = [
            jax.device_put(new.astype(old.dtype)) for new, old in zip(arrays, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, kept), values

    def keep(self, state: Any, values: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Write both, in place of what was kept before, where that is long enough ago."""
        if not at_once and time.monotonic() - self._last < self._every:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{i}": np.asarray(jax.device_get(leaf), order="C")
            for i, leaf in enumerate(jax.tree.leaves(state))
        }
        with naming(self.path), new_file(self.path) as unfinished:
            unfinished.write_bytes(save(arrays, {"values": json.dumps(values)}))
        self._last = time.monotonic()

    def remove(self) -> None:
        """Its numbers are kept elsewhere now."""
        self.path.unlink(missing_ok=True)
