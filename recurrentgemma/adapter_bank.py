# SPDX-License-Identifier: Apache-2.0
"""Many low-rank adapters beside one model, and for each row of a batch one of them, or none.

    y = x W^T + bias + (x A_k^T) B_k                  k: the place of the row's adapter

A bank has K places of one rank R, whatever they hold: a program that runs with it has one shape,
and another adapter in a place compiles nothing. A row without an adapter gets the plain layer's
bits. Scales are in B.

With one token a row, as in decoding, all rows are multiplied with all adapters, and what is not a
row's own is set to zero between the two products: each adapter is read once, however many rows
have it. With more tokens each row's own adapter is taken out of the bank. A row's bits depend
neither on the place of its adapter nor on what lies in the others, as long as that is finite: its R
products stand side by side in the sum, at a multiple of a power of two, and zeros add nothing.

B rows, T tokens, K places, R rank, I inputs and J outputs of a layer.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.adapters import A, B, linear_layers
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.layers import Linear, matmul, matmul_transposed

LEAST_RANK = 8
NONE = -1  # the place of a row without an adapter


class Bank(nnx.Variable):
    """Half of all adapters of a layer: [K, R, I] or [K, R, J], in the activations' dtype."""


class Places(nnx.Variable):
    """The place of each row's adapter, int32 [B]."""


class BankLinear(nnx.Module):
    """A linear layer, of whatever kind, beside a bank."""

    def __init__(self, linear: Linear, a_KRI: jax.Array, b_KRJ: jax.Array, places: Places):
        self.linear = linear
        self.bank_a, self.bank_b, self.places = Bank(a_KRI), Bank(b_KRJ), places

    def __call__(self, x_BTI: jax.Array) -> jax.Array:
        y_BTJ = self.linear(x_BTI)
        place_B = self.places[...]
        of_bank = _of_all if x_BTI.shape[1] == 1 else _of_own
        added_BTJ = of_bank(x_BTI, self.bank_a[...], self.bank_b[...], place_B)
        return jnp.where((place_B >= 0)[:, None, None], y_BTJ + added_BTJ, y_BTJ)


def _of_all(x_B1I: jax.Array, a_KRI: jax.Array, b_KRJ: jax.Array, place_B: jax.Array) -> jax.Array:
    count, rank, inputs = a_KRI.shape
    z_BX = matmul_transposed(x_B1I[:, 0], a_KRI.reshape(count * rank, inputs))
    of_X = jnp.repeat(jnp.arange(count), rank)
    z_BX = jnp.where(of_X[None] == place_B[:, None], z_BX, 0)
    return matmul(z_BX, b_KRJ.reshape(count * rank, -1))[:, None]


def _of_own(x_BTI: jax.Array, a_KRI: jax.Array, b_KRJ: jax.Array, place_B: jax.Array) -> jax.Array:
    z_BTR = jax.vmap(matmul_transposed)(x_BTI, a_KRI[place_B])
    return jax.vmap(matmul)(z_BTR, b_KRJ[place_B])


def attach_bank(model: Griffin, layers: Mapping[str, tuple[int, int]], *, count: int, rank: int):
    """The model with an empty bank beside these layers; its own parameters are shared.

    layers: canonical name -> [J, I] of its weight (adapters.adapted_layers). count: K. rank: R, a
    power of two from LEAST_RANK on.
    Raises UserError: the model scans its layers.
    """
    assert rank >= LEAST_RANK, rank
    assert rank & (rank - 1) == 0, rank
    if model.config.scan_layers:
        raise UserError("scan_layers: a bank of adapters is for a model whose layers are a list")
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, state)  # other modules, which hold the same arrays
    modules: dict[tuple, Any] = dict(nnx.iter_modules(model))
    places = model.adapter_places = Places(jnp.full((1,), NONE, jnp.int32))  # type: ignore[attr-defined]
    dtype = jnp.dtype(model.config.dtype)
    for path, (name,) in linear_layers(model, layers).items():
        outputs, inputs = layers[name]
        zeros = (jnp.zeros((count, rank, width), dtype) for width in (inputs, outputs))
        linear = BankLinear(modules[path], next(zeros), next(zeros), places)
        setattr(modules[path[:-1]], path[-1], linear)
    return model


class AdapterBank:
    """A model with a bank, whose adapters are replaced one at a time. `graphdef` and `params_for`
    are what nnx.split gives of it.

    Any thread may put an adapter into a place that no row has: whoever runs the model meanwhile has
    the old arrays or the new ones, which differ there alone.
    """

    def __init__(
        self, model: Griffin, layers: Mapping[str, tuple[int, int]], *, count: int, rank: int
    ):
        self.layers, self.count, self.rank = dict(layers), count, rank
        paths = {names[0]: path for path, names in linear_layers(model, layers).items()}
        model = attach_bank(model, layers, count=count, rank=rank)
        self.graphdef, self._params = nnx.split(model)
        self._halves = {
            name: tuple(_leaf(self._params, (*path, half)) for half in ("bank_a", "bank_b"))
            for name, path in paths.items()
        }
        self._put = jax.jit(_put)

    def params_for(self, place_B: np.ndarray) -> nnx.State:
        """Of a batch whose rows have the adapters in these places, NONE for none."""
        places: Any = Places(np.asarray(place_B, np.int32))  # type: ignore[call-arg]
        return nnx.State({**self._params.raw_mapping, "adapter_places": places})

    def put(self, place: int, flat: Mapping[str, Any], *, scale: float) -> None:
        """Adapters by canonical name, A [I, r] and B [r, J] with r <= R, into a place; layers
        without one of their own get none. scale: alpha / r.

        Raises UserError: they are of a layer that has no bank, or of another size.
        """
        self.check(flat)
        for name, halves in self._halves.items():
            for half, which in zip(halves, (A, B), strict=True):
                given, width = flat.get(f"{name}/{which}"), half[...].shape[2]
                one_RX = np.zeros((self.rank, width), np.float32)
                if given is not None:
                    given = np.asarray(given, np.float32)
                    given = given.T if which == A else given * np.float32(scale)
                    one_RX[: len(given)] = given
                half.set_value(self._put(half[...], np.int32(place), one_RX))

    def warm_up(self) -> None:
        """Compile what `put` needs, and change nothing."""
        for half in (half for halves in self._halves.values() for half in halves):
            zeros_RX = np.zeros(half[...].shape[1:], np.float32)
            jax.block_until_ready(self._put(half[...], np.int32(0), zeros_RX))

    def check(self, flat: Mapping[str, Any]) -> None:
        """Raises UserError as put."""
        for name, array in flat.items():
            layer, _, which = name.rpartition("/")
            if layer not in self.layers:
                raise UserError(
                    f"adapters of {layer!r}, and this bank has {', '.join(self.layers)}"
                )
            outputs, inputs = self.layers[layer]
            rank, width = reversed(array.shape) if which == A else array.shape
            if width != (inputs if which == A else outputs):
                raise UserError(
                    f"the adapters of {layer!r} are of a layer of another size: {name!r} is "
                    f"{list(array.shape)}, and the layer [{outputs}, {inputs}]"
                )
            if rank > self.rank:
                raise UserError(
                    f"the adapters have rank {rank}, and this bank takes up to {self.rank}"
                )

    @property
    def nbytes(self) -> int:
        return sum(half[...].nbytes for halves in self._halves.values() for half in halves)


def bank_rank(rank: int) -> int:
    """R of a bank for adapters of up to this rank."""
    return max(LEAST_RANK, 1 << (rank - 1).bit_length())


def _leaf(params: Any, path: tuple) -> Bank:
    for key in path:
        params = params[key]
    return params


def _put(bank_KRX: jax.Array, place: jax.Array, one_RX: jax.Array) -> jax.Array:
    one_1RX = one_RX.astype(bank_KRX.dtype)[None]
    return jax.lax.dynamic_update_slice_in_dim(bank_KRX, one_1RX, place, 0)
