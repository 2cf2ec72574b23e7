"""Heads that stacks and means are made of, and their training on the tiny cache, each in a moment."""

from dataclasses import replace
from pathlib import Path

from featcache.store.cache import FeatureCache
from head.runs.run import Run
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tiny import TINY_TRAIN

RIDGE, MEAN = TrainSettings(head="ridge"), TrainSettings(head="ridge", pooling="mean")
PAPER = replace(TINY_TRAIN, epochs=2)
MEMBERS = ("ridge", "ridge,pooling=mean", "paper")
STACK = TrainSettings(head="stack", members=MEMBERS)


def job_of(cache: FeatureCache, home: Path, settings: TrainSettings, split: str = "1", name: str = "") -> TrainingJob:
    """Return the job of a head in home/CACHE/NAME/split-K, where NAME is its usual one or, of PAPER, 'paper'."""
    name = name or ("paper" if settings.head == "amnet" else settings.default_name())
    return TrainingJob(cache, split, settings, home / cache.name / name / f"split-{split}", name)


def fit(cache: FeatureCache, home: Path, settings: TrainSettings, split: str = "1", name: str = "") -> Run:
    """Train such a head, and return its run."""
    return train(job_of(cache, home, settings, split, name))
