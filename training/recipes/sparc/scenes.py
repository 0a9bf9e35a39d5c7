# SPDX-License-Identifier: Apache-2.0
"""Scenes of real pictures, with captions that say what is where, and the mask of each thing.

Two or three things stand on a background of a random colour, in different quarters, each tinted in
a colour that its caption names ("a red lemon and a blue otter"), or as they are. Everything follows
from the seed, the split and the number, so that any scene can be made again and none is stored.

Held out: of each split the numbers; of `new`, too, combinations of thing and colour that no scene
of another split has. The same things in another style are a Scenes of another `style`.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError
from training.data.pairs.pair import Pair
from training.data.pairs.pictures import pillow
from training.recipes.sparc.cutouts import Cutout

COLOURS = {
    "red": (230, 60, 50),
    "green": (70, 190, 80),
    "blue": (70, 110, 240),
    "yellow": (240, 215, 60),
    "purple": (170, 80, 200),
    "white": (245, 245, 245),
}
SPLITS = ("train", "validation", "test", "new")
HELD_OUT = 5  # one combination of thing and colour in so many is of `new` alone
RELATIONS = ("left of", "right of", "above", "below")
GREY = np.array((0.299, 0.587, 0.114))  # weights of a pixel's brightness


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What scenes look like, and what captions say.

    side: pixels. things: at least and at most. coloured: tint each thing, and say so.
    says: `list` (a lemon and an otter), or `place` (a lemon left of an otter: of two things).
    mentioned: at most so many of the things; None: all.
    """

    side: int = 96
    things: tuple[int, int] = (2, 3)
    coloured: bool = True
    says: Literal["list", "place"] = "list"
    mentioned: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least, most = self.things
        if not 1 <= least <= most <= 4:
            raise UserError(f"things={self.things}: expected from 1 to 4, the least first")
        if self.says == "place" and least < 2:
            raise UserError(f"things={self.things}: says='place' needs two")
        if self.side < 16:
            raise UserError(f"side={self.side}: expected at least 16 pixels")


class Part(NamedTuple):
    """A thing in a scene. colour: "" as it is. mask_SS: bool, where it is. mentioned: in the
    caption."""

    name: str
    colour: str
    mask_SS: np.ndarray
    mentioned: bool

    @property
    def phrase(self) -> str:
        return f"{self.colour} {self.name}".strip()


class Scene(NamedTuple):
    """image_SS3: uint8. parts: in the caption's order, those that it leaves out last."""

    image_SS3: np.ndarray
    caption: str
    parts: tuple[Part, ...]
    relation: str


class Scenes:
    """See `PairSource`: the scenes of a split, by number.

    Raises UserError: there is no such split, or there are too few things.
    """

    def __init__(
        self,
        things: Sequence[Cutout],
        config: SceneConfig = SceneConfig(),
        *,
        split: str = "train",
        count: int = 1_000_000,
    ):
        if split not in SPLITS:
            raise UserError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
        if len(things) < 4:
            raise UserError(f"{len(things)} things to make scenes of: expected at least 4")
        self.things, self.config, self.split, self._count = list(things), config, split, count
        self.spec = f"scenes of {len(things)} things, {split}"

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{self.split} scene {index}"

    def __getitem__(self, index: int) -> Pair:
        scene = self.scene(index)
        return Pair(scene.image_SS3, scene.caption)

    def scene(self, index: int) -> Scene:
        """With the masks."""
        config = self.config
        rng = np.random.default_rng((config.seed, SPLITS.index(self.split), index))
        count = int(rng.integers(config.things[0], config.things[1] + 1))
        if config.says == "place":
            count = 2
        chosen = self._drawn(rng, count)
        image_SS3 = _background(rng, config.side)
        quarters = rng.permutation(4)[:count]
        masks = []
        for (cutout, colour), quarter in zip(chosen, quarters, strict=True):
            rgba = self._scaled(cutout, rng)
            masks.append(_paste(image_SS3, tinted(rgba, colour), int(quarter), rng))
        for below, above in itertools.combinations(range(count), 2):
            masks[below] &= ~masks[above]
        mentioned = min(count, config.mentioned or count)
        parts = tuple(
            Part(cutout.name, colour, mask, number < mentioned)
            for number, ((cutout, colour), mask) in enumerate(zip(chosen, masks, strict=True))
        )
        relation = ""
        if config.says == "place":
            relation = _relation(int(quarters[0]), int(quarters[1]), rng)
        image = np.clip(image_SS3, 0, 255).astype(np.uint8)
        return Scene(image, told(parts, relation), parts, relation)

    def _drawn(self, rng: np.random.Generator, count: int) -> list[tuple[Cutout, str]]:
        """Things that differ, in colours that differ, of combinations that the split may have;
        of `new` all of them are held out."""
        names = list(COLOURS)
        while True:
            things = rng.choice(len(self.things), count, replace=False)
            colours = rng.choice(len(names), count, replace=False)
            chosen = [
                (self.things[thing], names[colour] if self.config.coloured else "")
                for thing, colour in zip(things, colours, strict=True)
            ]
            if not self.config.coloured:
                return chosen
            if all(held_out(one.name, colour) == (self.split == "new") for one, colour in chosen):
                return chosen

    def _scaled(self, cutout: Cutout, rng: np.random.Generator) -> np.ndarray:
        """As large as a quarter takes, or a third smaller; float [h, w, 4]."""
        height, width = cutout.pixels_HW4.shape[:2]
        side = self.config.side / 2 * rng.uniform(0.67, 0.98)
        factor = side / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        module = pillow()
        picture = module.fromarray(cutout.pixels_HW4)
        return np.asarray(picture.resize(size, module.Resampling.BILINEAR), np.float32)


def held_out(name: str, colour: str) -> bool:
    """Whether a combination is of the split `new` alone; the same on every machine."""
    return hashlib.sha256(f"{colour} {name}".encode()).digest()[0] % HELD_OUT == 0


def tinted(rgba_HW4: np.ndarray, colour: str) -> np.ndarray:
    """The picture in shades of a colour; as it is with none. Float, 0 to 255."""
    if not colour:
        return rgba_HW4
    bright_HW1 = (rgba_HW4[..., :3] @ GREY / 255)[..., None]
    shade_HW3 = (0.25 + 0.75 * bright_HW1) * np.array(COLOURS[colour])
    return np.concatenate([shade_HW3, rgba_HW4[..., 3:]], -1)


def told(parts: Sequence[Part], relation: str = "") -> str:
    """What is said of parts that are mentioned."""
    phrases = [with_article(part.phrase) for part in parts if part.mentioned]
    if relation:
        return f"{phrases[0]} {relation} {phrases[1]}"
    return " and ".join(phrases)


def swapped(scene: Scene) -> dict[str, str]:
    """Captions of the same words that are not true of the scene, by what was swapped: `colours` of
    the first two things, and `order` of the two around a relation. Those that it can have."""
    first, second, *others = scene.parts
    if not second.mentioned:
        return {}
    captions = {}
    if first.colour and second.colour != first.colour and first.name != second.name:
        exchanged = first._replace(colour=second.colour), second._replace(colour=first.colour)
        captions["colours"] = told([*exchanged, *others], scene.relation)
    if scene.relation:
        captions["order"] = told([second, first, *others], scene.relation)
    return captions


def with_article(phrase: str) -> str:
    """`a lemon`, `an otter`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """A colour that goes over into another one, and a little noise; float."""
    corners_223 = rng.uniform(60, 200, (2, 2, 3))
    at_S = np.linspace(0, 1, side)
    across_2S3 = (
        corners_223[:, :1] * (1 - at_S)[None, :, None] + corners_223[:, 1:] * (at_S[None, :, None])
    )
    image_SS3 = across_2S3[:1] * (1 - at_S)[:, None, None] + across_2S3[1:] * at_S[:, None, None]
    return image_SS3 + rng.normal(0, 6, (side, side, 3))


def _paste(
    image_SS3: np.ndarray, rgba_HW4: np.ndarray, quarter: int, rng: np.random.Generator
) -> np.ndarray:
    """Put the picture into a quarter of the image, in place; where it is."""
    side = len(image_SS3)
    height, width = rgba_HW4.shape[:2]
    half = side // 2
    top = quarter // 2 * (side - half) + int(rng.integers(0, half - height + 1))
    left = quarter % 2 * (side - half) + int(rng.integers(0, half - width + 1))
    window = image_SS3[top : top + height, left : left + width]
    there_HW1 = rgba_HW4[..., 3:] / 255
    window *= 1 - there_HW1
    window += rgba_HW4[..., :3] * there_HW1
    mask_SS = np.zeros((side, side), bool)
    mask_SS[top : top + height, left : left + width] = there_HW1[..., 0] > 0.5
    return mask_SS


def _relation(first: int, second: int, rng: np.random.Generator) -> str:
    """A true one of two quarters, which may have two."""
    true = []
    if first % 2 != second % 2:
        true.append("left of" if first % 2 < second % 2 else "right of")
    if first // 2 != second // 2:
        true.append("above" if first // 2 < second // 2 else "below")
    return str(rng.choice(true))
