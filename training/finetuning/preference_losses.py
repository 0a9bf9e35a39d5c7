# SPDX-License-Identifier: Apache-2.0
"""DPO and KTO, on rows of which every second one is the other of a pair.

With log r = log policy(answer | prompt) - log reference(answer | prompt), summed over the answer's
tokens, and s the logistic function,

    dpo    -log s(beta (log r_chosen - log r_rejected))                        arXiv 2305.18290
    kto    w+ (1 - s(beta (log r - z)))  of an answer that is desirable         arXiv 2402.01306
           w- (1 - s(beta (z - log r)))  of one that is not

z is the mean of log r of answers to other prompts of the batch, at least 0, without a gradient.
With label smoothing e, dpo is (1 - e) times that and e times that of the pair turned round.

The loss hangs on the sum over an answer, so it is read twice off the same activations: without a
gradient, which gives each answer's weight dL / d log policy, and as a loss that is linear in the
log-likelihoods, with those weights.

A prompt is read once, and its state goes on into each of its answers; gradients go back through it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma import parallel, sharding
from recurrentgemma.griffin import Griffin, for_short_documents
from recurrentgemma.losses import hidden_loss
from recurrentgemma.state import State
from training.finetuning.preference_batches import PreferenceBatch
from training.finetuning.preference_config import PreferenceConfig

ROW_AXES = ("data", "fsdp")  # over which rows are divided


class Logps(NamedTuple):
    """Of each row's answer, in nats."""

    policy_B: jax.Array
    reference_B: jax.Array


class Preferred(NamedTuple):
    """See training/objective.py. Rows 2i and 2i + 1 of a batch are of example i: of dpo the chosen
    answer and the rejected, of kto the answer and the next example's in its place, whose sign
    is 1. An example without a sign is padding.

    reference: the structure of the checkpoint's model, without adapters."""

    config: PreferenceConfig
    reference: nnx.GraphDef[Griffin]
    compares: bool = True

    @property
    def names(self) -> frozenset[str]:
        names = {"nll", "tokens"}
        if self.config.method == "dpo":
            names |= {"reward_chosen", "reward_rejected", "reward_margin", "accuracy"}
            return frozenset(names | {"logp_chosen", "logp_rejected"})
        return frozenset(names | {"reward_desirable", "reward_undesirable", "kl_reference"})

    def count(self, batch: PreferenceBatch) -> jax.Array:
        """Examples."""
        return _over_rows(jnp.sum(jnp.abs(_signs(batch)[::2])))

    def __call__(
        self,
        model: Griffin,
        teacher: Any,
        batch: PreferenceBatch,
        carried: None,
        weight: Any,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], None]]:
        tokens = batch.prompt_BP.shape[1] + batch.tokens_BT.shape[1]
        tokens *= parallel.size("sequence")
        model = for_short_documents(model, tokens)
        still = nnx.merge(*_stopped(model))
        reference = nnx.merge(self.reference, jax.lax.stop_gradient(teacher))
        reference = for_short_documents(reference, tokens)
        read, reference_read = _read_prompts(model, batch), _read_prompts(reference, batch)
        pairs = self.config.method == "dpo"
        learned = batch if pairs else _every_other(batch, 0)
        x_BTD = _go_on(model, read, learned)
        policy_B = _answer_logps(still, jax.lax.stop_gradient(x_BTD), learned)
        logps = Logps(policy_B, _logps(reference, reference_read, learned))
        z = jnp.zeros(())
        if not pairs:
            others = _every_other(batch, 1)
            ratios_B = _logps(still, jax.lax.stop_gradient(read), others)
            ratios_B -= _logps(reference, reference_read, others)
            there_B = jnp.abs(_signs(others))
            mean = _over_rows(jnp.sum(ratios_B * there_B)) / jnp.maximum(
                _over_rows(jnp.sum(there_B)), 1
            )
            z = jnp.maximum(mean, 0)
        signs_B, count = _signs(learned), jnp.maximum(self.count(batch), 1)

        def mean_loss(policy_B: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            """Over this device's rows; they add up."""
            of = self._dpo if pairs else self._kto
            return of(logps._replace(policy_B=policy_B), signs_B, z, count)

        (loss, metrics), weight_B = jax.value_and_grad(mean_loss, has_aux=True)(policy_B)
        weights_BT = -weight_B[:, None] * jnp.abs(learned.weights_BT)
        linear, _, _ = hidden_loss(model, x_BTD, learned.targets_BT, weights_BT)
        linear = parallel.all_reduce(linear, *sharding.TOKEN_AXES)
        loss = _over_rows(jax.lax.stop_gradient(loss))
        metrics = jax.tree.map(_over_rows, metrics)
        if not pairs:
            metrics = _means_by_label(metrics) | {"kl_reference": z}
        tokens = parallel.all_reduce(jnp.sum(jnp.abs(learned.weights_BT)), *sharding.TOKEN_AXES)
        metrics |= {"nll": loss, "tokens": tokens}
        return loss + linear - jax.lax.stop_gradient(linear), (metrics, None)

    def _dpo(
        self, logps: Logps, signs_B: jax.Array, z: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        there_E = jnp.abs(signs_B[::2]) / count
        reward_B = self.config.beta * (logps.policy_B - logps.reference_B)
        chosen_E, rejected_E = reward_B[::2], reward_B[1::2]
        margin_E, smoothing = chosen_E - rejected_E, self.config.label_smoothing
        loss_E = -(1 - smoothing) * jax.nn.log_sigmoid(margin_E)
        if smoothing:
            loss_E -= smoothing * jax.nn.log_sigmoid(-margin_E)
        means = {
            "reward_chosen": chosen_E,
            "reward_rejected": rejected_E,
            "reward_margin": margin_E,
            "accuracy": (margin_E > 0).astype(jnp.float32),
            "logp_chosen": logps.policy_B[::2],
            "logp_rejected": logps.policy_B[1::2],
        }
        return jnp.sum(there_E * loss_E), {n: jnp.sum(there_E * x) for n, x in means.items()}

    def _kto(
        self, logps: Logps, signs_E: jax.Array, z: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        beta = self.config.beta
        ratio_E = logps.policy_B - logps.reference_B
        weight_E = jnp.where(
            signs_E > 0, self.config.desirable_weight, self.config.undesirable_weight
        )
        loss_E = weight_E * (1 - jax.nn.sigmoid(signs_E * beta * (ratio_E - z)))
        sums = {}
        for name, mask_E in (("desirable", signs_E > 0), ("undesirable", signs_E < 0)):
            sums[f"sum_{name}"] = jnp.sum(jnp.where(mask_E, beta * ratio_E, 0))
            sums[f"count_{name}"] = jnp.sum(mask_E.astype(jnp.float32))
        return jnp.sum(jnp.abs(signs_E) * loss_E) / count, sums


def _means_by_label(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {
        f"reward_{name}": sums[f"sum_{name}"] / jnp.maximum(sums[f"count_{name}"], 1)
        for name in ("desirable", "undesirable")
    }


def _read_prompts(model: Griffin, batch: PreferenceBatch) -> State:
    """The state after each example's prompt."""
    _, state = model.hidden(batch.prompt_BP[::2], positions=batch.prompt_positions_BP[::2])
    return state


def _go_on(model: Griffin, read: State, batch: PreferenceBatch) -> jax.Array:
    """Activations of rows: of every example as many as there are, one or two."""
    rows = len(batch.tokens_BT) // len(read.position_B)
    state = jax.tree.map(lambda x: jnp.repeat(x, rows, 0), read)
    return model.hidden(batch.tokens_BT, state, positions=batch.positions_BT)[0]


def _logps(model: Griffin, read: State, batch: PreferenceBatch) -> jax.Array:
    """Of each row's answer."""
    return _answer_logps(model, _go_on(model, read, batch), batch)


def _answer_logps(model: Griffin, x_BTD: jax.Array, batch: PreferenceBatch) -> jax.Array:
    weights_BT = jnp.abs(batch.weights_BT)
    _, nll_BT, _ = hidden_loss(model, x_BTD, batch.targets_BT, jnp.zeros_like(weights_BT))
    return -parallel.all_reduce(jnp.sum(nll_BT * weights_BT, 1), "sequence")


def _stopped(model: Griffin) -> tuple[Any, Any]:
    graphdef, params = nnx.split(model)
    return graphdef, jax.lax.stop_gradient(params)


def _signs(batch: PreferenceBatch) -> jax.Array:
    """1, -1, or 0 of padding, of each row."""
    return jnp.sign(parallel.all_reduce(jnp.sum(batch.weights_BT, 1), "sequence"))


def _every_other(batch: PreferenceBatch, first: int) -> PreferenceBatch:
    return PreferenceBatch(*(x[first::2] for x in batch))


def _over_rows(x: jax.Array) -> jax.Array:
    return parallel.all_reduce(x, *ROW_AXES)
