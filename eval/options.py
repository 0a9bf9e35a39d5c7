# SPDX-License-Identifier: Apache-2.0
"""What the commands of `griffin eval` have in common: the model that is measured and where its
numbers go.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class PerplexityArguments:
        path: ModelPath
        data: Sources
        model: Model = dataclasses.field(default_factory=ModelOptions)
        result: Result = dataclasses.field(default_factory=ResultOptions)

Their options have no prefix: `--dtype`, `--mesh.data`, `--out`, `--json`.
"""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from recurrentgemma.generation.lm import LanguageModel
    from recurrentgemma.griffin import Griffin

ModelPath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
"""A run, a checkpoint of any format, or a model's name on a hub."""
Sources = Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE...")]
"""Documents, as `griffin data` writes them: `text:GLOB`, `jsonl:GLOB?field=text` and so on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is loaded, and on which devices it runs."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""
    devices: int = 0
    """Use only the first so many devices; 0: all of them."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def load(self, path: str) -> "LanguageModel":
        """The model at a path or of a name, with its tokenizer. Raises UserError: see rg.load, and
        where there is no tokenizer."""
        from recurrentgemma.generation.lm import load

        lm = load(path, self.config, dtype=self.dtype)
        if lm.tokenizer is None:
            raise UserError(
                f"{path} has no tokenizer, so it cannot read text: put tokenizer.model or "
                "tokenizer.json beside its checkpoint"
            )
        return lm

    def load_on(
        self, path: str, mesh: "Mesh | None", *, context: int = 0
    ) -> "tuple[LanguageModel, Griffin]":
        """The model at a path, and the same one with its parameters on the mesh. context: so many
        keys, at least, its global attention is to hold.

        Raises UserError as load, and where the mesh does not divide the model.
        """
        import jax
        from flax import nnx

        from recurrentgemma import sharding
        from recurrentgemma.generation.lm import LanguageModel
        from recurrentgemma.griffin import Griffin

        lm = self.load(path)
        graphdef, params = nnx.split(lm.model, nnx.Param)
        if "global_attention" in lm.config.block_types and lm.config.context_length < context:
            config = dataclasses.replace(lm.config, context_length=context)
            graphdef = nnx.split(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0))))[0]
            lm = LanguageModel(nnx.merge(graphdef, params), lm.tokenizer)
        if mesh is None:
            return lm, lm.model
        sharding.check_model(lm.config, mesh.shape)
        params = jax.device_put(params, sharding.shardings(mesh, params))
        return lm, nnx.merge(graphdef, params)

    def make_mesh(self) -> "Mesh | None":
        """The mesh of the devices to use; None for a single one, which needs none.

        Raises UserError: the mesh does not fit the devices, or there are fewer than asked for.
        """
        import jax

        from recurrentgemma.sharding import make_mesh

        devices = jax.devices()
        if not 0 <= self.devices <= len(devices):
            raise UserError(f"devices={self.devices}: there are {len(devices)}; 0 is all of them")
        devices = devices[: self.devices or None]
        self.mesh.resolved(len(devices))
        return None if len(devices) == 1 else make_mesh(self.mesh, devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """Where the numbers go."""

    out: Path | None = None
    """A folder for result.json and the plots. An evaluation that was stopped, or killed, goes on
    there by the same command."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The last line of output is the result as one JSON object."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayOptions:
    """A cluster that does the work, in tasks."""

    ray: str | None = None
    """Spread the work over a Ray cluster: its address, `auto` for the one that this machine belongs
    to, or `local` for one of this command alone."""
    ray_cpus: float = 1.0
    """CPUs that each task takes of its machine."""
    ray_gpus: float = 0.0
    """GPUs that each task takes."""

    def __post_init__(self) -> None:
        for option, value, default in (
            ("--ray-cpus", self.ray_cpus, 1.0),
            ("--ray-gpus", self.ray_gpus, 0.0),
        ):
            if not 0 <= value < math.inf:
                raise UserError(f"{option} {value}: expected 0 or more")
            if self.ray is None and value != default:
                raise UserError(f"{option} has no effect without --ray")


def identity(lm: "LanguageModel") -> dict[str, Any]:
    """What tells a model from another one, for the settings of its results."""
    from checkpoints.session_file import weights_fingerprint
    from recurrentgemma.text.tokenizer import tokenizer_fingerprint

    return {
        "weights": weights_fingerprint(lm),
        "dtype": lm.config.dtype,
        "tokenizer": lm.tokenizer and tokenizer_fingerprint(lm.tokenizer),
    }


Model = Annotated[ModelOptions, tyro.conf.arg(name="")]
Result = Annotated[ResultOptions, tyro.conf.arg(name="")]
Ray = Annotated[RayOptions, tyro.conf.arg(name="")]
