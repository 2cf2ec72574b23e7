"""The .mat files of the archive of Isola et al., small."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

HEIGHT, WIDTH, IMAGES, ANALYSED, SPLITS = 7, 5, 13, 11, 25


NAMES = (
    "Image data/target_images.mat",
    "Random splits/image_train_indices.mat",
    "Random splits/image_test_indices.mat",
    "Random splits/subject_hrs1.mat",
    "Random splits/subject_hrs2.mat",
)


def matrices() -> dict[str, np.ndarray]:
    """Return what the files hold: 13 images, of which 11 are analysed, and 26 splits, one more than the paper has."""
    rng = np.random.default_rng(2011)
    orders = np.array([rng.permutation(ANALYSED)[:10] + 1 for _ in range(SPLITS + 1)])
    return {
        "img": rng.integers(0, 256, (HEIGHT, WIDTH, 3, IMAGES), dtype=np.uint8),
        "image_train_indices": orders[:, :5].astype(float),
        "image_test_indices": orders[:, 5:].astype(float),
        "subject_hrs1": rng.random((SPLITS + 1, ANALYSED)),
        "subject_hrs2": rng.random((SPLITS + 1, ANALYSED)),
    }


def write(folder: Path, values: dict[str, np.ndarray]) -> Path:
    """Write the .mat files as the archive has them."""
    for name, (variable, value) in zip(NAMES, values.items(), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        savemat(folder / name, {variable: value}, do_compression=True)
    return folder
