# SPDX-License-Identifier: Apache-2.0
"""Weights of linear layers as int8, by Qwix: half the memory of bfloat16, and half of what decoding
reads of them.

    y = (x Q^T) s + bias            Q [J, I] int8, s [J] a scale for each output

Activations stay as they are, and so do embeddings, gates, norms and everything else. The integers
are exact in bfloat16, so that the product is that of the rounded weights.
"""

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

from kernels.dot import dot_transposed
from kernels.dot import spread as spread_over
from recurrentgemma import parallel
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.layers import Linear


class Int8Linear(Linear):
    """A linear layer with a weight of int8. It is a Linear to all that looks for one; hence a
    subclass."""

    def __init__(self, linear: Linear):
        quantized = qwix.quantize(
            linear.weight[...].astype(jnp.float32), jnp.int8, channelwise_axes=(0,)
        )
        self.sums, self.bias = linear.sums, linear.bias
        self.weight = nnx.Param(quantized.qvalue)
        self.weight_scale = nnx.Param(quantized.scale[:, 0])

    def __call__(self, x: jax.Array) -> jax.Array:
        y_MJ = dot_transposed(x.reshape(-1, x.shape[-1]), self.weight[...])
        y_MJ *= self.weight_scale[...][None]
        y = y_MJ.astype(x.dtype).reshape(*x.shape[:-1], -1)
        if self.sums:
            y = parallel.all_reduce(y, "tensor")
        return y if self.bias is None else y + spread_over(self.bias[...], y)


def with_int8(lm: LanguageModel) -> LanguageModel:
    """The same with weights of int8. Raises UserError: the model scans its layers."""
    if lm.config.scan_layers:
        raise UserError("scan_layers: int8 is for a model whose layers are a list")
    graphdef, state = nnx.split(lm.model)
    model = nnx.merge(graphdef, state)  # other modules, which hold the same arrays
    modules = dict(nnx.iter_modules(model))
    for path, module in list(modules.items()):
        if isinstance(module, Linear):
            setattr(modules[path[:-1]], str(path[-1]), Int8Linear(module))
    return LanguageModel(model, lm.tokenizer)


def held_bytes(lm: LanguageModel) -> int:
    """Of all parameters."""
    return sum(x.nbytes for x in jax.tree.leaves(nnx.state(lm.model)))
