# SPDX-License-Identifier: Apache-2.0
"""Numbers about a trained pair of towers, from its embeddings: retrieval, zero-shot classification,
swaps, and how faithful retrieved captions are (2401.09865, sections 4.2 to 4.4).

Ties count against: a model that gives everything one embedding retrieves nothing.

Legend: N images, M captions, C classes, K prompts of a class, D width.
"""

from collections.abc import Collection, Sequence

import numpy as np

from recurrentgemma.errors import UserError


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Vectors [..., D] of length 1, float64; 0 stays 0."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def cosines(left_ND: np.ndarray, right_MD: np.ndarray) -> np.ndarray:
    """[N, M]."""
    return unit_rows(left_ND) @ unit_rows(right_MD).T


def retrieval(
    image_ND: np.ndarray,
    text_MD: np.ndarray,
    image_of_M: np.ndarray,
    *,
    at: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """Recall at 1 and 5, both ways: `i2t R@1`, the share of images one of whose captions is among
    the nearest, and `t2i R@1`, of captions whose image is.

    image_of_M: the image of each caption; one image may have several captions.

    Raises:
      UserError: an image has no caption, or a caption names no image.
    """
    image_of_M = np.asarray(image_of_M)
    if set(image_of_M.tolist()) != set(range(len(image_ND))):
        raise UserError(
            f"captions of images {sorted(set(image_of_M.tolist()))[:3]}...: expected each of the "
            f"{len(image_ND)} images 0 to {len(image_ND) - 1} to have a caption"
        )
    cosine_NM = cosines(image_ND, text_MD)
    own_NM = image_of_M[None] == np.arange(len(image_ND))[:, None]
    best_N1 = np.where(own_NM, cosine_NM, -np.inf).max(1, keepdims=True)
    before_N = ((cosine_NM >= best_N1) & ~own_NM).sum(1)
    own_M = cosine_NM[image_of_M, np.arange(len(image_of_M))]
    before_M = (cosine_NM >= own_M[None]).sum(0) - 1
    ranks = {"i2t": before_N, "t2i": before_M}
    return {f"{way} R@{k}": float((rank < k).mean()) for way, rank in ranks.items() for k in at}


def class_embeddings(prompts_CKD: np.ndarray) -> np.ndarray:
    """[C, D]: of each class the mean of its prompts' unit embeddings."""
    return unit_rows(unit_rows(prompts_CKD).mean(1))


def zero_shot_accuracy(image_ND: np.ndarray, class_CD: np.ndarray, labels_N: np.ndarray) -> float:
    """Share of images that are nearer to their class's embedding than to any other's."""
    cosine_NC = cosines(image_ND, class_CD)
    rows_N = np.arange(len(labels_N))
    own_N1 = cosine_NC[rows_N, labels_N][:, None]
    return float(((cosine_NC >= own_N1).sum(1) == 1).mean())


def swap_accuracy(image_ND: np.ndarray, text_ND: np.ndarray, swapped_ND: np.ndarray) -> float:
    """Share of images that are nearer to their caption than to the same caption with attributes or
    words exchanged; chance is one half."""
    image_ND = unit_rows(image_ND)
    right_N, wrong_N = ((image_ND * unit_rows(texts)).sum(-1) for texts in (text_ND, swapped_ND))
    return float((right_N > wrong_N).mean())


def nearest_captions(image_ND: np.ndarray, text_MD: np.ndarray) -> np.ndarray:
    """[N]: index of the caption that is nearest to each image."""
    return cosines(image_ND, text_MD).argmax(1)


def k_precision(
    retrieved: Sequence[Sequence[str]],
    truths: Sequence[Collection[str]],
    *,
    counted: Collection[str] | None = None,
) -> float:
    """Mean share of the words of a retrieved caption that its image's own captions have, too.

    retrieved: words of the top caption of each image. truths: of each image, all words of its own
    captions. counted: look at these words alone, such as nouns and adjectives; captions that have
    none of them are left out.

    Raises:
      UserError: there is no caption with a word that counts.
    """
    shares = []
    for words, truth in zip(retrieved, truths, strict=True):
        looked_at = [word for word in words if counted is None or word in counted]
        if looked_at:
            shares.append(np.mean([word in truth for word in looked_at]))
    if not shares:
        raise UserError("K-precision of no words: expected a caption with at least one that counts")
    return float(np.mean(shares))
