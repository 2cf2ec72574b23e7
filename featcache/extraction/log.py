"""What an extraction has done: progress for the user, a line for each shard in timings.csv, the report at its end.

The times are not in the shards: a shard is the same bytes wherever it is made, and no two machines are as fast.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featcache.base.errors import list_problems
from featcache.base.files import append_text, csv_bytes
from featcache.base.progress import OnProgress, Progress
from featcache.extraction.plan import Plan
from featcache.extraction.run import WrittenShard
from featcache.extraction.timings import STAGES, StageTimes, describe_shares
from featcache.images.loading import LoadedImage
from featcache.images.notes import describe
from featcache.store.folder import FAILURES_NAME, TIMINGS_NAME

_COLUMNS = ("shard", "views", "host", "process", *(f"{stage}_seconds" for stage in STAGES))


class ExtractionLog:
    """Counts views, bad images and busy seconds; tells them to on_progress and, for each shard, to timings.csv.

    by_image is whether `note_image` is called for every image; else views are counted by shards.
    """

    def __init__(self, folder: Path, plan: Plan, on_progress: OnProgress, *, by_image: bool) -> None:
        self._folder, self._on_progress, self._by_image = folder, on_progress, by_image
        self._total = len(plan.names) * plan.views
        self._done = self._skipped = self._total - plan.views_to_do
        self._bad = 0
        self.times = StageTimes()
        self._notes: set[tuple[str, str]] = set()

    @property
    def notes(self) -> list[tuple[str, str]]:
        """Return (name, note) of the images that were read, each once, in order of name."""
        return sorted(self._notes)

    def note_image(self, image: LoadedImage, views: int) -> None:
        """Count an image whose views are about to enter the backbone."""
        self._bad += bool(image.row.absent)
        self._report(views)

    def noting(self, shards: Iterator[WrittenShard]) -> Iterator[WrittenShard]:
        """Yield shards as they are made, each noted."""
        for made in shards:
            self.times.add(made.seconds)
            self._notes.update(made.notes)
            self._write(made)
            if not self._by_image:
                self._bad += len(made.absent)
                self._report(made.block.shape[0] * made.block.shape[1])
            yield made

    def _report(self, views: int) -> None:
        self._done += views
        notes = [f"{self._bad} bad images"] if self._bad else []
        if any(self.times.seconds.values()):
            notes.append(describe_shares(self.times.shares))
        self._on_progress(Progress("extract", self._done, self._total, "views", "; ".join(notes), self._skipped))

    def _write(self, made: WrittenShard) -> None:
        """Append the shard's line to timings.csv, behind a header if it is the first."""
        path = self._folder / TIMINGS_NAME
        header = [] if path.exists() and path.stat().st_size else [_COLUMNS]
        views = made.block.shape[0] * made.block.shape[1]
        seconds = [f"{made.seconds.get(stage, 0.0):.3f}" for stage in STAGES]
        append_text(path, csv_bytes([*header, (made.file, views, made.host, made.process, *seconds)]).decode())


@dataclass(frozen=True)
class ExtractReport:
    """What a cache holds after extraction, and the images it had to leave out, as (name, reason).

    stages is the share of all busy time that each stage took, bottleneck the one that the others waited for. notes are
    (name, note) of the images that were read now, dataset_notes those of the dataset. near_duplicates are groups of
    images that look alike; notes_of_ratings say what they came to in its parts, and which scores changed.
    """

    folder: Path
    fingerprint: str
    images: int
    views: int
    views_computed: int
    bytes: int
    absent: list[tuple[str, str]]
    stale_temporaries: int
    precision: str
    runtime: str
    stages: dict[str, float] = field(default_factory=dict)
    bottleneck: str = ""
    notes: list[tuple[str, str]] = field(default_factory=list)
    dataset_notes: tuple[str, ...] = ()
    near_duplicates: Sequence[Sequence[str]] = ()
    notes_of_ratings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        absent = [{"name": name, "reason": reason} for name, reason in self.absent]
        notes = [{"name": name, "note": note} for name, note in self.notes]
        return {**asdict(self), "folder": str(self.folder), "absent": absent, "notes": notes}

    def as_text(self) -> str:
        """Return what the cache holds and, if anything was computed, where the time went."""
        held = (
            f"{self.folder}: {self.images:,} images x {self.views} views, {self.bytes / 1e9:,.2f} GB, "
            f"{self.views_computed:,} views computed now; fingerprint {self.fingerprint[:16]}"
        )
        if not self.views_computed:
            return held
        shares = describe_shares(self.stages)
        return f"{held}\n{self.precision} by {self.runtime}; busy time: {shares}; bottleneck: {self.bottleneck}"

    def warnings(self) -> list[str]:
        """Return what a killed run had left, and which images were left out, why, and what to do."""
        found = []
        if self.stale_temporaries:
            found.append(f"removed {self.stale_temporaries} temporary files of a run that was killed")
        if self.absent:
            problems = [f"{name}: {reason}" for name, reason in self.absent]
            way_out = f"They are listed in {self.folder / FAILURES_NAME}; mend them and run the same command again."
            found.append(list_problems(f"{len(problems)} images were left out:", problems, way_out))
        return [*found, *describe(self.notes), *self.notes_of_ratings]

    def count(self) -> str:
        """Return how many images there are, extracted and left out, by reason."""
        reasons = Counter(reason.partition(":")[0] for _, reason in self.absent)
        by_reason = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
        extracted = f"{self.images:,} images: {self.images - len(self.absent):,} extracted"
        return f"{extracted}, {len(self.absent):,} left out: {by_reason}" if self.absent else extracted
