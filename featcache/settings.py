"""What an extraction is asked to do, checked. It imports neither NumPy nor torch, so that help is quick."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from featcache.base.errors import InvalidSettings

VIEW_RECIPES = ("paper", "published", "model")
EVAL_VIEWS = ("center", "squash", "squash-center")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
RUNTIMES = ("auto", "torch", "compile", "openvino")
COMPRESSIONS = ("auto", "none", "lz4", "zstd")
BAD_IMAGE_POLICIES = ("skip", "stop")
LARGEST_BATCH = 4096  # views
FLIP_PROBABILITY = 0.5
INTERPOLATIONS = ("bilinear-antialias", "bicubic-antialias")  # as Pillow resizes
INTERPOLATION = INTERPOLATIONS[0]
CENTER_FRACTION = 224 / 256  # the ImageNet convention: shorter side to 256, then the central 224
PRE_SQUASH_FRACTION = 264 / 224  # the published code crops 224 from 264


@dataclass(frozen=True)
class Encoding:
    """How a layer is stored: NumPy's name of its type, how zstd compresses it, and whether constants go with it.

    calibrated encodings have a scale and a zero point for each channel, taken from a sample.
    """

    dtype: str
    zstd_level: int
    shuffle: bool
    calibrated: bool


ENCODINGS = {  # level and shuffle of zstd chosen by bench/codecs.py on real features: the fastest to read and small
    "float16": Encoding("<f2", zstd_level=1, shuffle=True, calibrated=False),
    "uint8": Encoding("u1", zstd_level=1, shuffle=False, calibrated=True),
}
PLUS = " + "  # between the weights of a network and the dictionary of descriptors beside it
VIEWS_LAYER = "views"  # a layer of every backbone: the pixels of the views themselves, which no network has computed
PREFIX = ".prefix"  # behind a layer's name: the tokens that a network has before that layer's positions
PIXELS = Encoding("u1", zstd_level=1, shuffle=False, calibrated=False)  # how it is stored, whatever features are


@dataclass(frozen=True)
class ViewSettings:
    """How views are cut: size in pixels, crop_scale a range of area fractions, crop_ratio of width / height.

    eval_view is 'center', a central square of center_fraction of the shorter side; 'squash', the whole image; or
    'squash-center', center_fraction of both sides. pre_squash is the side of the square to which an image is squashed
    before augmented views are cut from it; 0 cuts them from the image itself. View 0 is always cut from the image
    itself.
    """

    image_size: int = 224
    eval_view: str = "center"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    seed: int = 0
    pre_squash: int = 0
    interpolation: str = INTERPOLATION
    center_fraction: float = CENTER_FRACTION

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 4096:
            raise InvalidSettings(f"--image-size must be 16 to 4096 pixels, found {self.image_size}")
        if self.eval_view not in EVAL_VIEWS:
            raise InvalidSettings(f"--eval-view must be one of {', '.join(EVAL_VIEWS)}, found {self.eval_view!r}")
        if not 0 <= self.seed < 2**63:
            raise InvalidSettings(f"--seed must be 0 to 2^63 - 1, found {self.seed}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise InvalidSettings(f"--crop-scale must be two numbers with 0 < LOW <= HIGH <= 1, found {low} {high}")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1] < math.inf:
            raise InvalidSettings(f"the crop ratio must be 0 < LOW <= HIGH, found {self.crop_ratio}")
        if self.interpolation not in INTERPOLATIONS:
            raise InvalidSettings(f"interpolation must be {' or '.join(INTERPOLATIONS)}, found {self.interpolation!r}")
        if not 0 < self.center_fraction <= 1:
            raise InvalidSettings(f"center_fraction must be above 0 and at most 1, found {self.center_fraction}")
        if self.pre_squash and not 16 <= self.pre_squash <= 8192:
            raise InvalidSettings(f"pre_squash must be 0 or 16 to 8192 pixels, found {self.pre_squash}")


@dataclass(frozen=True)
class ExtractSettings:
    """What to extract: augs is K, the number of augmented views beside the evaluation view.

    views is how images are cut, and `dataclasses.replace(settings.views, image_size=128)` changes a part of it. weights
    is 'imagenet', a file, or 'random'; layers may be empty for the backbone's default. final_norm is whether the
    last map is stored as the network's own last norm leaves it, None: where it has one.
    calibrate_like is
    a cache whose uint8 constants are taken, so that the two can be merged; '' calibrates on the dataset. compression is
    how features are compressed: 'auto' is what the cache has already, and of a new one what a sample of each layer is
    best stored with. batch_size is how many views the network computes at once, None: what suits the device. force
    starts although the disk seems too small.
    """

    augs: int = 0
    backbone: str = "resnet50"
    layers: tuple[str, ...] = ()
    weights: str = "imagenet"
    final_norm: bool | None = None
    views: ViewSettings = field(default_factory=ViewSettings)
    precision: str = "auto"
    runtime: str = "auto"
    device: str = "auto"
    batch_size: int | None = None
    on_bad_image: str = "skip"
    encoding: str = "float16"
    compression: str = "auto"
    calibrate_like: str = ""
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.augs <= 1000:
            raise InvalidSettings(f"--augs must be 0 to 1000, found {self.augs}")
        if self.batch_size is not None and not 1 <= self.batch_size <= LARGEST_BATCH:
            raise InvalidSettings(f"--batch-size must be auto or 1 to {LARGEST_BATCH}, found {self.batch_size}")
        if self.on_bad_image not in BAD_IMAGE_POLICIES:
            raise InvalidSettings(f"--on-bad-image must be skip or stop, found {self.on_bad_image!r}")
        if self.encoding not in ENCODINGS:
            raise InvalidSettings(f"--encoding must be {' or '.join(ENCODINGS)}, found {self.encoding!r}")
        if self.compression not in COMPRESSIONS:
            raise InvalidSettings(f"--compression must be {' or '.join(COMPRESSIONS)}, found {self.compression!r}")
        if self.calibrate_like and not ENCODINGS[self.encoding].calibrated:
            fitting = " or ".join(name for name, encoding in ENCODINGS.items() if encoding.calibrated)
            raise InvalidSettings(f"--calibrate-like goes with --encoding {fitting}: {self.encoding} has no constants")


def view_settings_of(
    name: str,
    *,
    image_size: int | None = None,
    eval_view: str | None = None,
    own: ViewSettings | None = None,
    **cut: Any,
) -> ViewSettings:
    """Return how the recipe called name, one of `VIEW_RECIPES`, cuts views.

    image_size and eval_view override the recipe's. 'paper' is section 3.5 with a central evaluation view; 'published'
    is the authors' code, which squashes the whole image: to image_size for the evaluation view, to 264/224 of it before
    a crop; 'model' is own, the views that a backbone's weights were trained for. cut is crop_scale and seed, as
    `ViewSettings` has them.
    """
    if name not in VIEW_RECIPES:
        raise InvalidSettings(f"--recipe must be one of {', '.join(VIEW_RECIPES)}, found {name!r}")
    usual = own if name == "model" and own else ViewSettings(eval_view="squash" if name == "published" else "center")
    size = image_size or usual.image_size
    pre_squash = round(PRE_SQUASH_FRACTION * size) if name == "published" else 0
    return replace(usual, image_size=size, eval_view=eval_view or usual.eval_view, pre_squash=pre_squash, **cut)
