# SPDX-License-Identifier: Apache-2.0
"""Towers trained on composed scenes, each objective from the same start on the same batches.

The measure, fixed before the runs: the weight of a local loss is the one with the highest mean over
seeds of R@1 (both ways) and mIoU together on validation scenes; what is compared are test scenes.

The towers are small (a ViT of 64 patches), the scenes real pictures of things: `scenes.py`. Which
tokens the paper's local loss reads is not said; here things and colours, so that no two of a
caption are alike.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from eval.intervals import Interval, t_interval
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings, as_json
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.sparc.caption_model import caption_model
from training.recipes.sparc.evaluation import Evaluator
from training.recipes.sparc.objectives import Objective, objective_of
from training.recipes.sparc.scene_arrays import (
    SceneArrays,
    scene_arrays,
    things_alone,
    things_of,
)
from training.recipes.sparc.scenes import SceneConfig
from training.recipes.sparc.step import Settings, init_state, make_step
from training.recipes.sparc.text import GriffinText, GriffinTextConfig, TransformerConfig
from training.recipes.sparc.towers import ImageText, PairConfig
from training.recipes.sparc.words import WordVocabulary
from training.recipes.vision.vit import ViTConfig
from training.small_griffin import small_griffin

WEIGHTS = (0.1, 0.5, 1.0, 5.0)  # of the local loss; the paper sweeps 0.5 to 10
CHOSEN_BY = ("i2t R@1", "t2i R@1", "mIoU")
ZERO_SHOT, OTHER_ZERO_SHOT = "zero-shot", "zero-shot, other style"
OTHER_STYLE = {"noto": "fluent", "fluent": "noto", "stamps": "clipart", "clipart": "stamps"}
SHOWN = (
    *("i2t R@1", "t2i R@1", "colours swapped", "mIoU", "K-precision", "gap"),
    *(ZERO_SHOT, OTHER_ZERO_SHOT),
)
LENGTH = 24  # tokens of the longest caption
POINTS = 100  # of a training that are logged
PRETRAINED = 1500  # steps on captions alone
SMALL_SCENES = SceneConfig(side=64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneArm:
    """local_weight: of the objective's local term, if it has one. mixing: as ViTConfig's. text: the
    tower. pretrained: steps that a Griffin has learned captions' language in, without pictures
    (caption_model.py). style, things: what scenes are made of, all of the style's where no count is
    given. train, measured: scenes."""

    objective: str = "sparc"
    local_weight: float = 1.0
    mixing: int | None = None
    text: Literal["transformer", "griffin", "griffin last", "griffin both ways"] = "transformer"
    pretrained: int = 0
    scene: SceneConfig = SMALL_SCENES
    style: str = "noto"
    things: int | None = 200
    train: int = 20_000
    measured: int = 512
    width: int = 64
    depth: int = 2
    patch: int = 8
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.pretrained and self.text == "transformer":
            raise UserError("pretrained: a Transformer is no language model: take a Griffin")

    def towers(self, vocab_size: int) -> PairConfig:
        """Sizes of both towers."""
        image = ViTConfig(
            patch=self.patch, width=self.width, depth=self.depth, heads=4, mixing=self.mixing
        )
        text = self._text(vocab_size)
        return PairConfig(image=image, text=text, image_size=self.scene.side, width=self.width)

    def _text(self, vocab_size: int) -> TransformerConfig | GriffinTextConfig:
        if self.text == "transformer":
            return TransformerConfig(
                vocab_size=vocab_size,
                length=LENGTH,
                width=self.width,
                depth=self.depth,
                heads=4,
            )
        return GriffinTextConfig(
            griffin=griffin_of(self.width, self.depth, vocab_size),
            length=LENGTH,
            pooling="last" if self.text == "griffin last" else "mean",
            directions=2 if self.text == "griffin both ways" else 1,
        )


def griffin_of(width: int, depth: int, vocab_size: int) -> GriffinConfig:
    """About as large as a Transformer of that width and depth: a recurrent block, then attention
    over the whole caption, in turn."""
    small = small_griffin(width, depth, vocab_size=vocab_size, window=LENGTH)
    return dataclasses.replace(small, pattern=("recurrent", "local_attention"))


@cache
def vocabulary(style: str, things: int | None) -> WordVocabulary:
    """Of all that scenes of these things may say."""
    return WordVocabulary([one.name for one in things_of(style, things)])


def arrays(arm: SceneArm, split: str) -> SceneArrays:
    """What a split of an arm holds."""
    count = arm.train if split == "train" else arm.measured
    return scene_arrays(arm.style, arm.things, arm.scene, split, count)


def objective(arm: SceneArm) -> Objective:
    """With the arm's weight."""
    return objective_of(arm.objective, local_weight=arm.local_weight)


@lru_cache(maxsize=8)
def _evaluator(config: PairConfig, words: WordVocabulary) -> Evaluator:
    """Its programs are compiled once for all arms of these towers."""
    graphdef = nnx.split(nnx.eval_shape(lambda: ImageText(config, rngs=nnx.Rngs(0))))[0]
    return Evaluator(graphdef, config, words)


def train(arm: SceneArm, seed: int) -> tuple[Any, list[dict[str, float]]]:
    """A model's parameters, and what was logged at a hundred points."""
    words = vocabulary(arm.style, arm.things)
    things_of(OTHER_STYLE[arm.style])  # what cannot be fetched is known before the work
    model = ImageText(arm.towers(len(words)), rngs=nnx.Rngs(seed))
    if isinstance(model.text, GriffinText) and arm.pretrained:
        griffin, _ = caption_model(
            *(model.text.config.griffin, words, arm.scene),
            length=LENGTH,
            steps=arm.pretrained,
            seed=seed,
        )
        for direction in filter(None, (model.text.griffin, model.text.backward)):
            nnx.update(direction, griffin)
    settings = Settings(
        steps=arm.steps,
        learning_rate=arm.learning_rate,
        warmup_steps=min(100, arm.steps // 10),
    )
    graphdef, state = init_state(model, objective(arm), settings, seed=seed)
    step = make_step(graphdef, objective(arm), settings)
    scenes, rng = arrays(arm, "train"), np.random.default_rng(seed)
    logged = []
    for number in range(arm.steps):
        index_B = rng.integers(0, len(scenes.captions), arm.batch_size)
        state, metrics = step(state, (scenes.batch(index_B, words, LENGTH),))
        if (number + 1) % max(1, arm.steps // POINTS) == 0:
            logged.append({name: float(value) for name, value in metrics.items()})
    return jax.block_until_ready(state.params["model"]), logged


def evaluated(arm: SceneArm, params: Any, split: str) -> dict[str, float]:
    """The numbers of evaluation.py on a split's scenes; on `test` also zero-shot classification of
    scenes of one thing, in this style and in another that nothing was trained on."""
    words = vocabulary(arm.style, arm.things)
    evaluator = _evaluator(arm.towers(len(words)), words)
    numbers = evaluator.measure(params, arrays(arm, split))
    if split == "test":
        for name, style in ((ZERO_SHOT, arm.style), (OTHER_ZERO_SHOT, OTHER_STYLE[arm.style])):
            alone = things_alone(style, words.names, arm.scene, arm.measured)
            if alone is not None:
                numbers[name] = evaluator.zero_shot(params, *alone)
    return numbers


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Of each cell: `validation`, `test` and `new`, the numbers of evaluation.py on those scenes;
    `loss` and `gap`, by time."""
    for cell in cells:
        arm: SceneArm = cell.choices
        params, logged = train(arm, cell.seed)
        splits = ("validation", "test", *(("new",) if arm.scene.coloured else ()))
        numbers = {split: evaluated(arm, params, split) for split in splits}
        by_time = {name: [one[name] for one in logged] for name in ("loss", "gap")}
        yield cell, as_json({**numbers, **by_time})


def family(arm: str) -> str:
    """The objective of an arm's name, without its weight."""
    return arm.rpartition(" ")[0] if arm.rpartition(" ")[2].replace(".", "").isdigit() else arm


def chosen(arms: Arms) -> dict[str, str]:
    """Of each family the arm that is best on validation scenes, by the mean over seeds."""
    best: dict[str, tuple[float, str]] = {}
    for arm, cells in arms.items():
        score = sum(float(values(cells, "validation", name).mean()) for name in CHOSEN_BY)
        if family(arm) not in best or score > best[family(arm)][0]:
            best[family(arm)] = score, arm
    return {name: arm for name, (_, arm) in best.items()}


def conclude(arms: Arms, *, against: str) -> Findings:
    """Each family's chosen arm on test scenes, and how far from `against`, seed by seed."""
    picked = chosen(arms)
    base = arms[picked[against]]
    rows: dict[str, dict[str, Interval]] = {}
    differences: dict[str, dict[str, Interval]] = {}
    for name, arm in picked.items():
        rows[arm] = {of: t_interval(values(arms[arm], "test", of)) for of in SHOWN}
        if name != against:
            differences[arm] = {
                of: t_interval(values(arms[arm], "test", of) - values(base, "test", of))
                for of in SHOWN
            }
    words = "; ".join(
        f"{arm}: {'; '.join(_told(name, one) for name, one in of.items())}"
        for arm, of in differences.items()
    )
    every = {
        arm: {of: t_interval(values(cells, "test", of)) for of in SHOWN}
        for arm, cells in arms.items()
    }
    return Findings(
        f"on test scenes, less {picked[against]} (* its interval has no 0). {words}.",
        {
            "chosen": picked,
            "test": {a: {n: as_numbers(i) for n, i in of.items()} for a, of in every.items()},
            "difference": {
                a: {n: as_numbers(i) for n, i in of.items()} for a, of in differences.items()
            },
        },
        [
            findings.interval_table("Test scenes, weights chosen on validation ones", "arm", rows),
            findings.interval_table(f"Less {picked[against]}, by seed", "arm", differences),
            findings.interval_table("Test scenes, all arms", "arm", every),
        ],
        {
            "mIoU": findings.bar_plot(
                {arm: of["mIoU"] for arm, of in every.items()},
                title="Segmentation of test scenes by the path that was trained",
                ylabel="mIoU",
            ),
            "retrieval": findings.bar_plot(
                {arm: of["t2i R@1"] for arm, of in every.items()},
                title="Retrieval of test scenes by their captions",
                ylabel="R@1",
            ),
            "loss": findings.plot(
                *(arms, "loss"),
                title="Loss while training",
                xlabel="hundredths of the steps",
                ylabel="nats, each objective its own",
            ),
            "gap": findings.plot(
                *(arms, "gap"),
                title="Local loss beside a wrong image, less that beside its own",
                xlabel="hundredths of the steps",
                ylabel="nats",
            ),
        },
    )


def _told(name: str, interval: Interval) -> str:
    sure = "*" if interval.low > 0 or interval.high < 0 else ""
    return f"{name} {interval.mean:+.3f}{sure}"


def scene_arms(arm: SceneArm) -> dict[str, SceneArm]:
    """CLIP, SPARC and its ablations at each weight, GLoRIA, FILIP."""
    arms = {"clip": dataclasses.replace(arm, objective="clip")}
    for name in ("sparc", "no sparsity", "softmax"):
        for weight in WEIGHTS if name == "sparc" else WEIGHTS[1:3]:
            arms[f"{name} {weight:g}"] = dataclasses.replace(
                arm, objective=name, local_weight=weight
            )
    for name in ("gloria", "filip"):
        arms[name] = dataclasses.replace(arm, objective=name)
    return arms


def mixing_arms(arm: SceneArm) -> dict[str, SceneArm]:
    """CLIP and SPARC with patches that do not attend to each other, or in the last block alone."""
    return {
        f"{objective}, {mixing} of {arm.depth} blocks mix": dataclasses.replace(
            arm, objective=objective, mixing=mixing
        )
        for mixing in range(arm.depth + 1)
        for objective in ("clip", "sparc")
    }


def tower_arms(arm: SceneArm) -> dict[str, SceneArm]:
    """A Transformer and Griffins as text tower, fresh and pretrained, under SPARC."""
    texts = ("transformer", "griffin", "griffin last", "griffin both ways")
    fresh = {text: dataclasses.replace(arm, text=text) for text in texts}
    pretrained = {
        f"{text}, pretrained": dataclasses.replace(fresh[text], pretrained=PRETRAINED)
        for text in ("griffin", "griffin both ways")
    }
    return {**fresh, **pretrained}


def conclude_mixing(arms: Arms) -> Findings:
    """Against CLIP with all blocks mixing."""
    return conclude(
        arms, against=next(name for name in reversed(list(arms)) if name.startswith("clip"))
    )


SCENES = Experiment(
    name="scenes",
    question="does SPARC localise better than CLIP, its ablations, FILIP and GLoRIA?",
    cost="3 CPU hours, an estimate",
    arms=scene_arms(SceneArm()),
    measure=measure,
    conclude=partial(conclude, against="clip"),
)
MIXING = Experiment(
    name="mixing",
    question="is the shortcut of SPARC's local loss taken where patches mix?",
    cost="1.5 CPU hours, an estimate",
    arms=mixing_arms(SceneArm()),
    measure=measure,
    conclude=conclude_mixing,
)
TOWERS = Experiment(
    name="towers",
    question="is a Griffin as good a text tower as a Transformer of its size?",
    cost="1.5 CPU hours, an estimate",
    arms=tower_arms(SceneArm()),
    measure=measure,
    conclude=partial(conclude, against="transformer"),
)
