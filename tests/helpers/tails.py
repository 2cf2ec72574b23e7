"""Small caches that tails are trained on, of networks whose weights lie in a file that a test can read as well."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from featcache.backbones.backbone import build_backbone
from featcache.base.progress import silent
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.settings import ViewSettings
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.models.kinds import head_from_json
from head.models.tails.tail import TailHead
from head.settings import TrainSettings, settings_of
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob
from tests.helpers.tiny import TINY_EXTRACT


@dataclass(frozen=True)
class Network:
    """A network by its name here, the side of what it sees, and the layers that a cache of it has beside `views`."""

    name: str
    size: int
    layers: tuple[str, ...]

    def drawn(self) -> nn.Module:
        """Return the network as its library makes it, with weights that are always the same."""
        import timm
        import torchvision

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20180618)
            if self.name.startswith("timm:"):
                model: nn.Module = timm.create_model(self.name.removeprefix("timm:"))
            else:
                model = torchvision.models.get_model(self.name)
            for norm in [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]:
                nn.init.uniform_(norm.weight, 0.3, 0.7)  # timm begins with 0 at the end of a block
                norm.running_mean = torch.randn(norm.num_features) / 4
                norm.running_var = 0.5 + torch.rand(norm.num_features)
        return model

    def weights(self, folder: Path) -> Path:
        """Return a file of these weights in a folder."""
        file = folder / f"{self.name.replace(':', '-')}.safetensors"
        safetensors.torch.save_file({name: one.contiguous() for name, one in self.drawn().state_dict().items()}, file)
        return file

    def cache(self, dataset: Path, folder: Path, **changes: Any) -> FeatureCache:
        """Return the cache of a dataset's views and layers, its weights in a file of the same folder."""
        views = ViewSettings(image_size=self.size)
        settings = replace(
            TINY_EXTRACT,
            **{
                "backbone": self.name,
                "weights": str(self.weights(folder)),
                "views": views,
                "layers": ("views", *self.layers),
                **changes,
            },
        )
        extract(open_dataset(str(dataset)), settings, folder / "cache")
        return open_cache(folder / "cache")


RESNET18 = Network("resnet18", 64, ("layer3",))
RESNET = Network("timm:test_resnet", 64, ("layer2", "layer3"))
VIT = Network("timm:test_vit", 160, ("blocks.2", "blocks.2.prefix"))


def tail_settings(**changes: Any) -> TrainSettings:
    """Return the settings of a tail that is trained in a moment."""
    return settings_of(
        **{"head": "tail", "layers": ("views",), "batch_size": 9, "epochs": 2, "precision": "fp32", **changes}
    )


def tail_job(cache: FeatureCache, folder: Path, split: str = "1", **changes: Any) -> TrainingJob:
    """Return the job of such a tail, in a folder named after a split as those of train-head are."""
    return TrainingJob(cache, split, tail_settings(**changes), folder / f"split-{split}", folder.name)


def tail_trainer(cache: FeatureCache, folder: Path, **changes: Any) -> Trainer:
    """Return what trains such a tail, before its first step."""
    job = tail_job(cache, folder, **changes)
    data = split_data(cache, job.split, job.settings)
    return Trainer(job, data, device=torch.device("cpu"), on_progress=silent, on_history=lambda history: None)


def tail_of(name: str, size: int, layer: str, **changes: Any) -> TailHead:
    """Return a tail of a network with random weights, without a cache."""
    layers = [layer, f"{layer}.prefix"] if "vit" in name and layer != "views" else [layer]
    backbone = build_backbone(name, layers=layers, weights="random", image_size=size, device="cpu", precision="fp32")
    shape = backbone.shapes[layer]
    facts = {"backbone": name, "layer": layer, "height": shape.height, "width": shape.width, "image_size": size}
    facts |= {"final_norm": backbone.final_norm, "mean": backbone.mean, "std": backbone.std}
    head = head_from_json("tail", {**facts, **changes})
    assert isinstance(head, TailHead)
    return head
