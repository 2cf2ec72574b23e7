"""One run to train: of what, by which settings, and where it goes. Knows nothing of how it is fitted."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from featcache.backbones.families.descriptor_networks import located_weights
from featcache.base.devices import devices_for, resolve_device
from featcache.store.cache import FeatureCache
from featcache.store.folder import weights_of_cache
from head.data.batches import SplitData, is_all_images
from head.data.inputs import HeadInput
from head.data.resident import Resident, resident_for, wanted_by
from head.data.several import AnyInput
from head.models.fused.products import resolve_products
from head.models.kinds import input_of, kind_for
from head.runs.members import find_member_runs, several_inputs
from head.runs.ratings import weights_of, weights_together
from head.runs.run import Run
from head.settings import HEADS, TrainSettings


@dataclass(frozen=True)
class TrainingJob:
    """One split to train, or 'full' for all images, the folder of its run and the run's name.

    Runs of the same head on the splits, by which one on all images goes, are in split-K beside its folder, and of other
    seeds in the folders beside that one.
    A run that is there is finished if it is not, and kept as it is if it is; resume=False starts over. events is the
    folder for TensorBoard's event files of this run, if they are wanted. device is as `extract` takes it; of several
    GPUs each process takes one. resident says whether the features that training reads are held in its memory, 'yes',
    'no' or, as far as that is free, 'auto'; processes are how many runs are trained side by side on this machine.
    weights are those of the cache's network, if they are not where the cache says.
    """

    cache: FeatureCache
    split: str
    settings: TrainSettings
    folder: Path
    name: str
    resume: bool = True
    events: Path | None = None
    device: str = "auto"
    weights: str | None = None
    resident: str = "auto"
    processes: int = 1

    @property
    def weights_source(self) -> str:
        """Where the weights of the cache's network are: those given, or where the cache says."""
        if not self.weights:
            return weights_of_cache(self.cache.path, self.cache.manifest.source)
        return located_weights(self.cache.recipe.backbone, self.weights, lambda file: Path(file).resolve())

    @property
    def input(self) -> AnyInput:
        """What the head reads; raise `InvalidSettings` for a layer the cache does not have, or members without runs."""
        return several_inputs(self.member_runs) if self.of_others else self.own_input

    @property
    def own_input(self) -> HeadInput:
        """The same of a head that is not made of others."""
        return input_of(self.cache, self.settings)

    @property
    def of_others(self) -> bool:
        """Whether the head is made of others, its members."""
        return kind_for(self.settings).of_others

    @cached_property
    def member_runs(self) -> list[Run]:
        """The finished runs of its members on its split; raise `InvalidSettings` for those that are missing."""
        return find_member_runs(self.cache, self.split, self.settings, self.folder.parent.parent)

    @property
    def weighted_by(self) -> tuple[str, ...]:
        """By what images are weighted, `--weight` of the head and of its members, without 'none'."""
        members = self.member_runs if self.of_others else []
        return weights_together(self.settings.weight, [weight for run in members for weight in weights_of(run)])

    @property
    def on_all_images(self) -> bool:
        """Whether it is to be trained on all images, and not on a split that is named like that."""
        return is_all_images(self.cache, self.split)

    def uses(self, field: str) -> bool:
        """Whether the head uses a field of settings that not every head does."""
        return field in HEADS[self.settings.head]

    def products(self, device: torch.device) -> str:
        """Return the type of large products of matrices, 'fp32' or 'bf16'."""
        return resolve_products(self.settings.precision, device) if self.uses("precision") else "fp32"

    def resident_features(self, data: SplitData, device: torch.device) -> Resident | None:
        """Return what holds the features that training on data reads; None if they are read from the cache each time.

        Those that are projected on fewer channels are held by what projects them. Raises what `resident_for` does.
        """
        if self.settings.channels:
            return None
        epochs = data.chosen.epochs if data.chosen else min(self.settings.epochs, self.settings.patience + 1)
        on_each = -(-self.processes // len(devices_for(resolve_device(self.device))))
        wanted = wanted_by(self.cache, data, epochs=epochs, processes=on_each)
        return resident_for(self.resident, self.cache, self.own_input, wanted, device)


def as_member(job: TrainingJob, run: Run, folder: Path) -> TrainingJob:
    """Return the job that fits a member of a job's head as its run was, in another folder."""
    return replace(job, settings=run.train_settings, folder=folder, name=run.name, events=None, weights=None)
