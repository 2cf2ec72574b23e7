"""What an extraction has done so far: progress for the user, and a line for each shard in timings.csv.

The times are not in the shards: a shard is the same bytes wherever it is made, and no two machines are as fast.
"""

from collections.abc import Iterator
from pathlib import Path

from featcache.base.files import append_text, csv_bytes
from featcache.base.progress import OnProgress, Progress
from featcache.extraction.plan import Plan
from featcache.extraction.run import WrittenShard
from featcache.extraction.timings import STAGES, StageTimes, describe_shares
from featcache.images.loading import LoadedImage
from featcache.store.folder import TIMINGS_NAME

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

    def note_image(self, image: LoadedImage, views: int) -> None:
        """Count an image whose views are about to enter the backbone."""
        self._bad += bool(image.row.absent)
        self._report(views)

    def noting(self, shards: Iterator[WrittenShard]) -> Iterator[WrittenShard]:
        """Yield shards as they are made, each noted."""
        for made in shards:
            self.times.add(made.seconds)
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
