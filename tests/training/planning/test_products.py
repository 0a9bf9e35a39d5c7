# SPDX-License-Identifier: Apache-2.0
"""Matrix products in the forms in which compilers write them."""

import jax
import jax.numpy as jnp
import pytest

from training.planning import hlo, products

TEXT = """HloModule jit_f, is_scheduled=true

%fused (p: bf16[8,32], q: bf16[64,32]) -> bf16[8,64] {
  %p = bf16[8,32]{1,0:T(8,128)(2,1)} parameter(0)
  %q = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[8,64]{1,0:T(8,128)(2,1)} convolution(%p, %q), dim_labels=bf_oi->bf
}

%batched (p.1: bf16[4,8,32], q.1: bf16[4,32,16]) -> bf16[4,8,16] {
  %p.1 = bf16[4,8,32]{2,1,0} parameter(0)
  %q.1 = bf16[4,32,16]{2,1,0} parameter(1)
  ROOT %c.1 = bf16[4,8,16]{2,1,0} convolution(%p.1, %q.1), \
window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf
}

ENTRY %main (x: bf16[8,32], w: bf16[64,32], a: bf16[4,8,32], b: bf16[4,32,16]) -> bf16[8,64] {
  %x = bf16[8,32]{1,0} parameter(0)
  %w = bf16[64,32]{1,0} parameter(1)
  %a = bf16[4,8,32]{2,1,0} parameter(2)
  %b = bf16[4,32,16]{2,1,0} parameter(3)
  %first = bf16[4,8,16]{2,1,0} fusion(%a, %b), kind=kOutput, calls=%batched
  %y.remat2 = bf16[8,64]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  ROOT %z = bf16[8,64]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
}
"""


def test_products_of_a_tpu():
    """Two equal ones, the first computed again by the compiler, and a batch of four."""
    one = 2 * 8 * 32 * 64
    assert products.flops(hlo.parse(TEXT)) == (2 * one + 4 * 2 * 8 * 32 * 16, one)


@pytest.mark.parametrize("steps", [1, 5])
def test_products_in_a_loop(steps: int):
    def run(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=steps)[0]

    text = jax.jit(run).lower(jnp.ones((3, 7)), jnp.ones((7, 7))).compile().as_text() or ""
    assert products.flops(hlo.parse(text)) == (steps * 2 * 3 * 7 * 7, 0)


def test_what_is_not_understood():
    text = TEXT.replace("dim_labels=bf_oi->bf", "nothing=0")
    with pytest.raises(ValueError, match="a convolution without dim_labels"):
        products.products(hlo.parse(text))
