# SPDX-License-Identifier: Apache-2.0
"""Our model in the peers' benchmark: the same tasks with the same interface (docs/performance.md).

dtype "f32" or "bf16": bfloat16 weights for decode and prefill, float32 weights with bfloat16
activations for training. Tasks return (run, info): run() does one unit of work and waits for it.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from recurrentgemma.config import GriffinConfig
from recurrentgemma.generation.draw import likeliest
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.memory import keep_freed_memory
from recurrentgemma.state import init_state


def random_tokens(cfg, batch: int, time_steps: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, cfg.vocab, (batch, time_steps)).astype(np.int32)


class Ours:
    def __init__(self, cfg, dtype: str, **changes):
        keep_freed_memory()  # as the griffin command does
        self.cfg = cfg
        self.dtype = "bfloat16" if dtype == "bf16" else "float32"
        self.config = GriffinConfig(
            width=cfg.width,
            mlp_width=cfg.mlp,
            num_layers=cfg.depth,
            lru_width=cfg.lru,
            num_gate_blocks=cfg.heads,
            num_heads=cfg.heads,
            head_dim=cfg.hd,
            vocab_size=cfg.vocab,
            attention_window=cfg.window,
            scale_embeddings=True,
            logits_soft_cap=30.0,
            dtype=self.dtype,
            **changes,
        )

    def params(self, param_dtype: str):
        config = dataclasses.replace(self.config, param_dtype=param_dtype)
        return nnx.split(Griffin(config, rngs=nnx.Rngs(0)))

    def compile(self, function, *args, donate=()):
        start = time.perf_counter()
        lowered = jax.jit(function, donate_argnums=donate).lower(*args)
        traced, cpu = time.perf_counter(), time.process_time()
        compiled = lowered.compile()
        return compiled, {
            "trace_s": traced - start,
            "compile_s": time.perf_counter() - start,
            "compile_cpu_s": time.process_time() - cpu,
        }

    def temporary_mib(self, compiled) -> float:
        return compiled.memory_analysis().temp_size_in_bytes / 2**20

    def prep_train(self, B, T):
        graphdef, params = self.params("float32")
        tx = optax.adamw(1e-4, 0.9, 0.95, weight_decay=0.1)
        opt_state = jax.jit(tx.init)(params)
        x = jnp.asarray(random_tokens(self.cfg, B, T + 1))
        where = jnp.tile(jnp.arange(T, dtype=jnp.int32)[None], (B, 1))
        batch = Batch(x[:, :-1], x[:, 1:], jnp.ones((B, T), jnp.float32), where)

        def step(params, opt_state, batch):
            def loss_fn(params):
                return next_token_loss(nnx.merge(graphdef, params), batch)[0]

            loss, gradients = jax.value_and_grad(loss_fn)(params)
            updates, opt_state = tx.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        compiled, info = self.compile(step, params, opt_state, batch, donate=(0, 1))
        info["temp_MiB"] = self.temporary_mib(compiled)
        box = [params, opt_state, 0.0]
        del params, opt_state

        def run():
            box[0], box[1], loss = compiled(box[0], box[1], batch)
            box[2] = float(loss)

        info |= {"tokens": B * T, "loss": lambda: box[2]}
        return run, info

    def prep_prefill(self, P, B=1):
        graphdef, params = self.params(self.dtype)
        x = jnp.asarray(random_tokens(self.cfg, B, P))

        def prefill(params, x):
            model = nnx.merge(graphdef, params)
            hidden_BTD, state = model.hidden(x)
            return likeliest(model.unembed(hidden_BTD[:, -1])), state

        compiled, info = self.compile(prefill, params, x)
        info.update(tokens=B * P)
        return (lambda: jax.block_until_ready(compiled(params, x))), info

    def prep_decode(self, B, P, n, mode="scan"):
        graphdef, params = self.params(self.dtype)
        state = init_state(self.config, B)
        keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(state)))
        keys = jax.tree.unflatten(jax.tree.structure(state), list(keys))
        state = jax.tree.map(
            lambda x, key: (
                jnp.full_like(x, P)
                if x.dtype == jnp.int32
                else 0.1 * jax.random.normal(key, x.shape).astype(x.dtype)
            ),
            state,
            keys,
        )
        state_bytes = sum(x.nbytes for x in jax.tree.leaves(state)) / B
        token = jnp.asarray(random_tokens(self.cfg, B, 1))

        def many(params, token, state):
            def one(carry, _):
                token, state = carry
                logits, state = nnx.merge(graphdef, params)(token, state)
                return (likeliest(logits[:, 0])[:, None], state), token

            (token, state), tokens = jax.lax.scan(one, (token, state), None, length=n)
            return token, state, tokens

        compiled, info = self.compile(many, params, token, state, donate=(2,))
        box = [token, state]
        del state

        def run():
            box[0], box[1], tokens = compiled(params, *box)
            jax.block_until_ready(tokens)

        info.update(tokens=B * n, state_bytes=state_bytes)
        return run, info


OURS = {
    "ours": Ours,
    "ours_scan": lambda cfg, dtype: Ours(cfg, dtype, scan_layers=True),
    "ours_remat": lambda cfg, dtype: Ours(cfg, dtype, remat="block"),
}
