"""The sizes and settings of what tests share, small enough to run in a moment; and where the project lies."""

from dataclasses import replace
from pathlib import Path

from featcache.settings import ExtractSettings, ViewSettings
from head.settings import TrainSettings

ROOT = Path(__file__).parents[2]
IMAGES, SPLITS = 41, ("1", "2")
PART_SIZES = {"train": 23, "val": 7, "test": 11}
TINY_EXTRACT = ExtractSettings(
    augs=2, backbone="resnet18", weights="random", views=ViewSettings(image_size=64), precision="fp32"
)
QUICK_EXTRACT = replace(TINY_EXTRACT, backbone="timm:test_resnet")  # where the network itself is not looked at
TINY_TRAIN = TrainSettings(
    hidden_size=16, regressor_size=8, dropout=0.1, lr=0.01, batch_size=10, epochs=12, precision="fp32"
)
