# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe sparc` does besides experiments: scenes as files, a model of scenes or of a
user's own pictures, heat maps."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from recurrentgemma.config_json import to_json
from recurrentgemma.errors import UserError
from training.data.pairs.pictures import pillow, square
from training.recipes.sparc.pair_options import PairOptions
from training.recipes.sparc.scenes import SPLITS, SceneConfig, Scenes

EXAMPLES = """Scenes of real pictures, a model of them or of your own, and where it sees a word.

examples:
  griffin recipe sparc --make-scenes scenes/train --count 1000
  griffin recipe sparc --train runs/sparc
  griffin recipe sparc --train runs/mine --pairs.source folder:photos --pairs.text runs/demo
  griffin recipe sparc --query "a red lemon" photo.png scenes/train/images/00000.png
"""
FLAGS = ("--make-scenes", "--train", "--query")
HOT = np.array((255, 60, 0))  # of a heat map where a word is
SHOWN_SIDE = 256  # pixels of an image in what --query writes


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparcArguments:
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")] = ()
    """Files for --query."""
    make_scenes: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write scenes there: images, masks and captions, which training reads as folder:FOLDER."""
    count: int = 1000
    """Of scenes."""
    split: str = "train"
    """Of train, validation, test and new, which has combinations that no other one has."""
    style: str = "noto"
    """Of the pictures: noto, fluent, stamps or clipart."""
    side: int = 96
    """Pixels of a scene's side."""
    train: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Train a model and keep it there: a small one on scenes, or on the pictures of --pairs.source;
    stopped, the same command goes on with those."""
    objective: str = "sparc"
    """Of that model: sparc, clip, filip, pacl, gloria, mgca, or an ablation."""
    local_weight: float = 1.0
    """Of the local loss."""
    mixing: int | None = None
    """Blocks of the image tower, the last ones, in which patches attend to each other; by default
    all. With fewer a patch knows less of the others (README.md, "A shortcut")."""
    steps: int = 1500
    """Of that training."""
    seed: int = 0
    """Of scenes, and of that training."""
    pairs: PairOptions = dataclasses.field(default_factory=PairOptions)
    query: Annotated[str | None, tyro.conf.arg(metavar="WORDS")] = None
    """Show where each of these words is seen in IMAGES."""
    model: Path = Path("runs/sparc")
    """The folder of the model for --query."""
    out: Path = Path()
    """Where --query writes NAME.query.png."""

    def check(self) -> None:
        """Raises UserError: what to do is not said, or said twice."""
        wanted = [self.make_scenes is not None, self.train is not None, self.query is not None]
        if sum(wanted) != 1:
            raise UserError("expected one of --make-scenes, --train and --query")
        if (self.query is not None) != bool(self.images):
            raise UserError(
                "--query wants the files of images after it"
                if self.query is not None
                else f"{self.images[0]}: images are for --query"
            )
        if self.split not in SPLITS:
            raise UserError(f"--split {self.split}: expected one of {', '.join(SPLITS)}")
        if not self.pairs.source and self.pairs != PairOptions():
            raise UserError("--pairs options without --pairs.source: name your pictures")
        if self.pairs.source and self.train is None:
            raise UserError(f"--pairs.source {self.pairs.source}: expected --train FOLDER, too")
        if self.mixing is not None and self.train is None:
            raise UserError(f"--mixing {self.mixing} has no effect without --train FOLDER")
        if self.count < 1:
            raise UserError(f"--count {self.count}: expected at least 1")


def main(argv: Sequence[str]) -> None:
    """Raises UserError: see SparcArguments, cutouts, kept_model."""
    arguments = tyro.cli(
        SparcArguments, prog="griffin recipe sparc", description=EXAMPLES, args=argv
    )
    arguments.check()
    if arguments.make_scenes is not None:
        make_scenes(arguments, arguments.make_scenes)
    elif arguments.train is not None:
        train(arguments, arguments.train)
    else:
        query(arguments)


def make_scenes(arguments: SparcArguments, folder: Path) -> None:
    """Write them, and say so."""
    from training.recipes.sparc.scene_arrays import things_of
    from training.recipes.sparc.scene_files import write_scenes

    config = SceneConfig(side=arguments.side, seed=arguments.seed)
    scenes = Scenes(things_of(arguments.style), config, split=arguments.split)

    def progress(count: int) -> None:
        if count % 1000 == 0 and count < arguments.count:
            print(f"{count:,} of {arguments.count:,} scenes", flush=True)

    write_scenes(scenes, folder, arguments.count, progress=progress)
    print(f"{folder}: {arguments.count:,} scenes, such as {scenes[0].caption!r}")


def train(arguments: SparcArguments, folder: Path) -> None:
    """Train, keep the model, and say what it does on pictures that it has not seen."""
    from training.recipes.sparc import scene_study
    from training.recipes.sparc.kept_model import SETTINGS, save_model

    if (folder / SETTINGS).exists():
        raise UserError(f"{folder} has a model already: name another folder, or delete it")
    if arguments.pairs.source:
        train_on_pairs(arguments, folder)
        return
    arm = scene_study.SceneArm(
        objective=arguments.objective,
        local_weight=arguments.local_weight,
        mixing=arguments.mixing,
        steps=arguments.steps,
        style=arguments.style,
    )
    scene_study.objective(arm)
    arm.towers(1)  # what is wrong with either is known before the work
    print(f"making {arm.train:,} scenes, then {arm.steps:,} steps of {arm.batch_size} of them")
    params, logged = scene_study.train(arm, arguments.seed)
    words = scene_study.vocabulary(arm.style, arm.things)
    how = {**to_json(arm), "seed": arguments.seed}
    save_model(folder, params, arm.towers(len(words)), words, how)
    numbers = scene_study.evaluated(arm, params, "test")
    print(f"{folder}: loss {logged[-1]['loss']:.3f}; on test scenes {_shown(numbers)}")


def train_on_pairs(arguments: SparcArguments, folder: Path) -> None:
    """See pair_run.py."""
    from training.recipes.sparc import pair_run
    from training.recipes.sparc.kept_model import save_model

    how = {
        "objective": arguments.objective,
        "local_weight": arguments.local_weight,
        "mixing": arguments.mixing,
        "steps": arguments.steps,
        "seed": arguments.seed,
    }
    kept = folder / "training"
    params, config, tokenizer, numbers = pair_run.train(arguments.pairs, kept, **how)
    save_model(folder, params, config, tokenizer, {**how, **to_json(arguments.pairs)})
    shutil.rmtree(kept)
    print(f"{folder}: on pairs held out {_shown(numbers)}")


def _shown(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())


def query(arguments: SparcArguments) -> None:
    """Write an image for each file: as it is, and with each word's heat map beside it."""
    from training.recipes.sparc.kept_model import load_model

    kept = load_model(arguments.model)
    words = str(arguments.query).lower().split()
    kept.marked(words)
    for path in arguments.images:
        try:
            file = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        try:
            pixels_SS3 = square(file, kept.model.config.image_size)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        maps = word_maps(kept, pixels_SS3, words)
        target = arguments.out / f"{path.stem}.query.png"
        pillow().fromarray(beside(square(file, SHOWN_SIDE), list(maps.values()))).save(target)
        print(f"{target}: {', '.join(('as it is', *maps))}")
        for word, heat_SS in maps.items():
            y, x = np.unravel_index(heat_SS.argmax(), heat_SS.shape)
            side = len(heat_SS) - 1
            print(f"  {word}: most at {x / side:.0%} from the left, {y / side:.0%} from the top")


def word_maps(kept: Any, pixels_SS3: np.ndarray, words: Sequence[str]) -> dict[str, np.ndarray]:
    """The heat map of each word, the mean of its tokens', [S, S] from 0 to 1; see KeptModel.

    Raises UserError: the words are more than the text tower takes.
    """
    import jax

    from training.recipes.sparc.batch import pair_batch
    from training.recipes.sparc.localization import heat_maps
    from training.recipes.sparc.scene_arrays import scaled

    config = kept.model.config
    ids, tokens = kept.marked(words)
    ids_1L = np.array([ids])
    batch = pair_batch(
        *(scaled(pixels_SS3[None]), ids_1L, np.ones_like(ids_1L)),
        vocab_size=config.text.vocab_size,
        length=config.text.length,
    )
    embeddings, _ = jax.jit(lambda batch: kept.model(batch))(batch)
    side = config.image_size
    maps = heat_maps(
        embeddings.tokens_BLD[0], embeddings.patches_BPD[0], grid=config.grid, size=(side, side)
    )
    return {word: maps[these].mean(0) for word, these in tokens.items()}


def beside(pixels_SS3: np.ndarray, maps: Sequence[np.ndarray]) -> np.ndarray:
    """The image, and as often as there are maps in grey with the map in red, side by side."""
    grey_SS1 = pixels_SS3.mean(-1, keepdims=True)
    tiles = [pixels_SS3.astype(np.float32)]
    for heat in maps:
        repeats = len(pixels_SS3) // len(heat)
        share = np.kron(heat, np.ones((repeats, repeats)))[..., None] ** 2
        tiles.append(0.7 * grey_SS1 * (1 - share) + HOT * share)
    return np.concatenate(tiles, 1).clip(0, 255).astype(np.uint8)
