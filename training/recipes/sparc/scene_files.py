# SPDX-License-Identifier: Apache-2.0
"""`griffin recipe sparc --make-scenes`: scenes as files that any trainer reads, ours as
`folder:DIRECTORY`.

    FOLDER/metadata.jsonl    a line a scene: file_name, text, its things, and the file of its masks
    FOLDER/images/00000.png
    FOLDER/masks/00000.png   a number a pixel: 0 the background, n the nth thing of the line
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recurrentgemma.errors import UserError
from training.data.pairs.folder_pairs import FILE, METADATA
from training.data.pairs.pictures import pillow
from training.recipes.sparc.scenes import Scene, Scenes


def write_scenes(
    scenes: Scenes,
    folder: Path,
    count: int,
    *,
    progress: Callable[[int], None] = lambda number: None,
) -> None:
    """The first `count` of a split. metadata.jsonl is written last and whole, so that a folder with
    one is complete. progress: is told how many are there.

    Raises UserError: the folder has scenes already, or cannot be written.
    """
    lines = folder / METADATA
    if lines.exists():
        raise UserError(f"{lines} is there already: name another folder, or delete it")
    try:
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        records = []
        for number in range(count):
            records.append(_write(scenes.scene(number), folder, number))
            progress(number + 1)
        unfinished = lines.with_suffix(".unfinished")
        unfinished.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        os.replace(unfinished, lines)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from None


def _write(scene: Scene, folder: Path, number: int) -> dict:
    image, masks = f"images/{number:05}.png", f"masks/{number:05}.png"
    index_SS = np.zeros(scene.image_SS3.shape[:2], np.uint8)
    for place, part in enumerate(scene.parts, 1):
        index_SS[part.mask_SS] = place
    module = pillow()
    module.fromarray(scene.image_SS3).save(folder / image)
    module.fromarray(index_SS).save(folder / masks)
    things = [
        {"name": part.name, "colour": part.colour, "mentioned": part.mentioned}
        for part in scene.parts
    ]
    return {FILE: image, "text": scene.caption, "masks": masks, "things": things}
