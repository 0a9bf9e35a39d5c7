# SPDX-License-Identifier: Apache-2.0
"""Named LoRA adapters on one base, each in a place of a bank (recurrentgemma/adapter_bank.py),
loaded and dropped while the engine runs.

    adapters = Adapters(bank)
    adapters.load("poems", "runs/poems")    # a run of `griffin finetune --lora`, or PEFT's files
    GenerationRequest(..., adapter=adapters.get("poems"))
    adapters.drop("poems")                  # what has begun with it ends with it

An adapter's version is a hash of its numbers: states are kept and found by it, so that none that
was computed with another version is ever used. Its place is free again once nobody holds it: no
request, no slot, no prompt.
"""

import dataclasses
import gc
import hashlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from checkpoints.load import open_adapters
from recurrentgemma.adapter_bank import NONE, AdapterBank, bank_rank
from recurrentgemma.adapters import adapted_layers
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.lora_config import LoraConfig

MAX_NAME = 200


class NoSuchAdapter(UserError):
    """There is no adapter of this name."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ServedAdapter:
    """An adapter in a place, which is its own as long as somebody holds this."""

    name: str
    version: str
    place: int
    path: str = ""

    @property
    def key(self) -> str:
        """What states are known by."""
        return f"{self.name}@{self.version}"


def place_of(adapter: ServedAdapter | None) -> int:
    return NONE if adapter is None else adapter.place


class Adapters:
    """The adapters in a bank, by name. Any thread may call it.

    reserved: names that none may have, such as the base's.
    """

    def __init__(self, bank: AdapterBank, *, reserved: frozenset[str] = frozenset()):
        self.bank, self.reserved = bank, reserved
        self._lock = threading.Lock()
        self._named: dict[str, ServedAdapter] = {}
        self._free = list(reversed(range(bank.count)))
        self._kept = 0
        self._by_name: weakref.WeakSet[ServedAdapter] = weakref.WeakSet()  # and still held

    def keep(self, places: int) -> None:
        """So many of the bank's places are for `place`, and no adapter with a name gets them."""
        self._kept = places

    @property
    def names(self) -> list[str]:
        """In the order in which they came."""
        return list(self._named)

    def get(self, name: str) -> ServedAdapter:
        """Raises NoSuchAdapter."""
        adapter = self._named.get(name)
        if adapter is None:
            raise NoSuchAdapter(f"there is no adapter {name!r}", field="model")
        return adapter

    def load(self, name: str, path: str) -> ServedAdapter:
        """Read an adapter from a file. Raises UserError: there is none, it is of another base, or
        as `add`."""
        self._check_name(name)
        read, _ = open_adapters(path)
        try:
            return self.add(name, read.flat(), scale=read.alpha / read.rank, path=path)
        except UserError as error:
            raise UserError(f"{path}: {error}", field=error.field) from None

    def add(
        self, name: str, flat: Mapping[str, Any], *, scale: float, path: str = ""
    ) -> ServedAdapter:
        """An adapter by canonical names. Raises UserError: there is one of this name, it does not
        fit, is not finite, or every place is taken."""
        self._check(flat)
        with self._lock:
            self._check_name(name)
            self._check_unkept()
            adapter = self._take_place(name, flat, scale, path)
            self._named[name] = adapter
            self._by_name.add(adapter)
        return adapter

    def place(self, name: str, flat: Mapping[str, Any], *, scale: float) -> ServedAdapter:
        """As `add`, for whoever holds what is returned: no request can choose it by name."""
        self._check(flat)
        with self._lock:
            return self._take_place(name, flat, scale)

    def drop(self, name: str) -> None:
        """No new request can have it. Raises NoSuchAdapter."""
        with self._lock:
            self.get(name)
            del self._named[name]

    def _check(self, flat: Mapping[str, Any]) -> None:
        self.bank.check(flat)
        if not all(np.isfinite(array).all() for array in flat.values()):
            raise UserError("the adapters are not finite: they would spoil every answer")

    def _take_place(
        self, name: str, flat: Mapping[str, Any], scale: float, path: str = ""
    ) -> ServedAdapter:
        if not self._free:
            gc.collect()  # what holds one in a circle
        if not self._free:
            raise self._no_place()
        place = self._free.pop()
        adapter = ServedAdapter(name=name, version=version_of(flat, scale), place=place, path=path)
        weakref.finalize(adapter, self._free.append, place).atexit = False
        self.bank.put(place, flat, scale=scale)
        return adapter

    def _check_unkept(self) -> None:
        """Raises UserError: those with a name, and those dropped that somebody still holds, have
        all places but the kept ones."""
        most = self.bank.count - self._kept
        if len(self._by_name) >= most:
            gc.collect()
        if len(self._by_name) >= most:
            raise self._no_place()

    def _no_place(self) -> UserError:
        return UserError(
            f"all {self.bank.count - self._kept} places for adapters are taken: drop one that is "
            "not needed, or have the server started with more --max-adapters"
        )

    def _check_name(self, name: str) -> None:
        if not 0 < len(name) <= MAX_NAME:
            raise UserError(f"an adapter needs a name of up to {MAX_NAME} characters")
        if name in self._named or name in self.reserved:
            raise UserError(f"there is a model {name!r} here already: choose another name")


def chosen(adapters: Adapters | None, model: str | None) -> ServedAdapter | None:
    """What a request's `model` means: an adapter, or the base. Raises NoSuchAdapter."""
    if adapters is None or model is None or model in adapters.reserved:
        return None
    return adapters.get(model)


def bank_for(
    model: Griffin,
    paths: Mapping[str, str],
    *,
    count: int,
    rank: int,
    any_layer: bool,
    learned: LoraConfig | None = None,
) -> AdapterBank:
    """A bank for the adapters at these paths, and others.

    count: places, at least one for each. rank: the largest; 0: theirs, or 16 without any.
    any_layer: beside every linear layer, not only beside those that these have.
    learned: what sessions learn has these layers and this rank.
    Raises UserError: they cannot be read, or are more than count or rank allow.
    """
    read = [open_adapters(path)[0] for path in paths.values()]
    if count < max(1, len(read)):
        raise UserError(f"--max-adapters {count}: expected at least {max(1, len(read))}")
    ranks = [adapters.rank for adapters in read] + ([learned.rank] if learned else [])
    largest = max(ranks, default=16)
    if 0 < rank < largest and ranks:
        raise UserError(f"--adapter-rank {rank}: one of the adapters has rank {largest}")
    layers = adapted_layers(model.config, LoraConfig(rank=1))
    if not any_layer:
        theirs = {layer for adapters in read for layer in adapters.pairs}
        theirs |= set(adapted_layers(model.config, learned)) if learned else set()
        layers = {name: shape for name, shape in layers.items() if name in theirs}
    return AdapterBank(model, layers, count=count, rank=bank_rank(rank or largest))


def named_paths(given: Sequence[str]) -> dict[str, str]:
    """--adapters: NAME=PATH each. Raises UserError: one is not."""
    paths: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in paths:
            raise UserError(f"--adapters {text}: expected NAME=PATH, each name once")
        paths[name] = path
    return paths


def version_of(flat: Mapping[str, Any], scale: float) -> str:
    """A hash of the numbers."""
    digest = hashlib.blake2b(np.float32(scale).tobytes(), digest_size=16)
    for name in sorted(flat):
        digest.update(f"{name} {flat[name].shape}".encode())
        digest.update(np.ascontiguousarray(flat[name], np.float32).tobytes())
    return digest.hexdigest()
