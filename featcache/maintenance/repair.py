"""Making a damaged cache whole: just the damaged or missing rows are extracted again, good shards stay untouched.

What is recomputed is the same file, byte for byte, on the machine and with the versions that made it. A killed
repair goes on where it was: each shard is replaced at once or not at all.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featcache.backbones.backbone import Backbone
from featcache.backbones.execution import available_runtime
from featcache.backbones.of_recipe import backbone_of
from featcache.base.errors import Mismatch
from featcache.base.files import storage_errors
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import images_of
from featcache.extraction.pipeline import build_shards, load_for
from featcache.images.loading import LoadedImage
from featcache.maintenance.project import command_of, refuse_projected
from featcache.maintenance.repair_plan import RepairJob, constants_of, plan_repair
from featcache.maintenance.verify import Examination, Problem, VerifyReport, examine
from featcache.store.folder import (
    DICTIONARY_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    shard_path,
    shard_place,
    shards_folder,
    weights_of_cache,
)
from featcache.store.manifest import Manifest, read_manifest
from featcache.store.shards.encoding import Constants
from featcache.store.shards.format import Target, codecs_of_version_1, shard_name
from featcache.store.shards.shard import StoredRow, opened
from featcache.store.shards.writer import copied_shard
from featcache.store.writer import CacheWriter, Committed


@dataclass(frozen=True)
class RepairReport:
    """What was found, which files were repaired, how many rows were computed anew, and what could not be repaired.

    changed lists repaired files whose features are not those that were lost, to the last bit: another machine or
    other versions computed them.
    """

    found: VerifyReport
    repaired: list[str]
    rows_computed: int
    changed: list[str]
    unrepaired: list[Problem]

    @property
    def now(self) -> VerifyReport:
        """What was found, without what is repaired."""
        return replace(self.found, problems=self.unrepaired)

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        fields = asdict(self)
        del fields["found"]
        return {**self.found.as_json(), "sound_now": self.now.ok, **fields}

    def as_text(self) -> str:
        """Return what was found, and a line for each file that was repaired or left."""
        lines = [self.found.as_text(), *(f"repaired {file}" for file in self.repaired)]
        lines += [f"changed  {file}: computed anew, but not the same to the last bit" for file in self.changed]
        lines += [f"left     {problem}" for problem in self.unrepaired]
        if self.repaired:
            lines.append(f"{self.rows_computed:,} rows were computed anew")
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """Return what to know of the cache as it is now."""
        return self.now.warnings()


def repair_cache(
    folder: Path,
    *,
    root: Path | None = None,
    weights: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    on_progress: OnProgress = silent,
) -> RepairReport:
    """Verify a cache and compute anew what is damaged or missing, from the images below root/images.

    root and weights default to those of the extraction. An image is used only if it is the file whose features
    were lost. Raises `Locked` if another process is writing there, `Mismatch` if the weights are not those.
    """
    if not shards_folder(folder).is_dir():
        read_manifest(folder)  # raises if there is no cache at all
    with CacheWriter(folder) as writer:
        seen = examine(folder, threads=threads, on_progress=on_progress)
        if seen.report.ok:
            return RepairReport(seen.report, [], 0, [], [])
        if seen.manifest is None:
            return _set_aside(folder, seen)
        if seen.manifest.recipe.projection:
            again = command_of(seen.manifest, folder)
            refuse_projected(seen.manifest.recipe, folder, f"run it again, it makes what is damaged anew: {again}")
        images = images_of(seen.manifest.source, root)
        jobs, repaired, unrepairable = plan_repair(folder, seen.manifest, seen, images)
        constants = constants_of(folder, seen)
        repairer = _Repairer(writer, seen.manifest, constants, images, weights=weights, device=device)
        repaired |= repairer.repair(jobs, on_progress)
        unrepairable += repairer.conclude(seen, repaired)
        unrepairable += [problem for problem in seen.report.problems if problem.file == DICTIONARY_NAME]
        left = {problem.file for problem in unrepairable}
        return RepairReport(
            seen.report,
            repaired=[problem.file for problem in seen.report.problems if problem.file not in left],
            rows_computed=sum(len(job.rows) for job in jobs),
            changed=[shard_place(file) for file, one in repaired.items() if one.sha256 != seen.manifest.listed[file]],
            unrepaired=unrepairable,
        )


def _set_aside(folder: Path, seen: Examination) -> RepairReport:
    """Rename damaged shards of a cache that no readable manifest seals, so that extract computes their rows anew.

    What cannot be read, or is of another version, is no proof of damage and stays where it is.
    """
    repaired, left = [], []
    for check in seen.checks:
        if check.problem is not None and check.damaged:
            path = folder / check.problem.file
            with storage_errors(path):
                path.rename(path.with_name(f"{path.name}.damaged"))
            repaired.append(check.problem.file)
        elif check.problem is not None:
            left.append(check.problem)
    left += [problem for problem in seen.report.problems if problem.file == MANIFEST_NAME]
    return RepairReport(seen.report, repaired, 0, [], left)


class _Repairer:
    """Makes damaged shards anew and seals the cache; loads the backbone when the first row has to be computed."""

    def __init__(
        self,
        writer: CacheWriter,
        manifest: Manifest,
        constants: Mapping[str, Constants],
        images: Path,
        *,
        weights: str | None,
        device: str,
    ) -> None:
        self.writer, self.manifest, self.recipe, self.images = writer, manifest, manifest.recipe, images
        codecs = manifest.codecs or (codecs_of_version_1(self.recipe),)
        self.targets = [Target(self.recipe, one, constants) for one in codecs]
        self.weights, self.device = weights or weights_of_cache(writer.folder, manifest.source), device

    def repair(self, jobs: Sequence[RepairJob], on_progress: OnProgress) -> dict[str, Committed]:
        """Write each job's shard; return what became of each damaged file."""
        repaired = {}
        for done, job in enumerate(jobs, start=1):
            repaired[job.entry.file] = self.writer.commit(job.entry.block, self._rebuilt(job))
            on_progress(Progress("repair", done, len(jobs), "shards"))
        return repaired

    def _rebuilt(self, job: RepairJob) -> bytes:
        """Return the bytes of a shard whose good rows are copied and whose lost ones are computed.

        Which of the cache's codecs a file had that cannot be opened shows when the same file comes out.
        """
        if job.shard:
            return self._built(job, replace(self.targets[0], codecs=job.shard.codecs))
        first = b""
        for target in self.targets:
            data = self._built(job, target)
            if shard_name(job.entry.block, data) == job.entry.file:
                return data
            first = first or data
        return first

    def _built(self, job: RepairJob, target: Target) -> bytes:
        """Return the bytes of a shard, made with target."""
        with opened(job.shard) if job.shard else contextlib.nullcontext(-1) as descriptor:
            rows = self._rows(job, descriptor)
            if job.rows:
                return next(build_shards(rows, [job.entry.block], self._backbone, target)).data
            return copied_shard(target, job.entry.block, (row for row in rows if isinstance(row, StoredRow)))

    def _rows(self, job: RepairJob, descriptor: int) -> Iterator[LoadedImage | StoredRow]:
        """Yield each row of the shard: copied, or loaded from its image where it is to be computed."""
        work = [(job.images[row].name, job.entry.block.views) for row in job.rows]
        loaded = load_for(self._backbone, self.images, work, self.recipe) if work else iter(())
        for i, row in enumerate(range(*job.entry.block.rows)):
            if row in job.rows:
                image = next(loaded)
                if image.row != job.images[row]:  # it was replaced since it was checked
                    raise Mismatch(
                        f"{self.images / image.row.name}: not the image whose features were lost; restore it"
                    )
                yield image
            elif job.shard:
                yield job.shard.read_row(descriptor, i)
            else:
                yield StoredRow(job.images[row], [], [])

    @functools.cached_property
    def _backbone(self) -> Backbone:
        return backbone_of(
            self.recipe,
            weights=self.weights,
            batch_size=int(self.manifest.source["batch_size"]),
            runtime=available_runtime(self.manifest.source.get("runtime", "torch"), self.device),
            device=self.device,
            where=str(self.writer.folder),
            way_out="Pass the weights that the cache was extracted with as --weights FILE.",
        )

    def conclude(self, seen: Examination, repaired: dict[str, Committed]) -> list[Problem]:
        """Seal the cache again if its files are not those of the manifest any more; return why it could not be."""
        manifest, listed = self.manifest, self.manifest.listed
        replaced = [file for file in listed if file in repaired and repaired[file].sha256 != listed[file]]
        if not seen.index_problem and not replaced:
            return []
        checks = zip(manifest.shards, seen.checks, strict=True)
        unrepairable = [entry.file for entry, check in checks if check.problem and entry.file not in repaired]
        if unrepairable:
            what = "takes its place only when these are mended as well: " + ", ".join(unrepairable)
            waiting = [*map(shard_place, replaced), *([INDEX_NAME] if seen.index_problem else [])]
            return [Problem(file, what) for file in waiting]
        self.writer.listed = dict(repaired.get(file, (file, sha256)) for file, sha256 in listed.items())
        self.writer.seal_like(manifest, self.recipe)
        for file in set(listed) - set(self.writer.listed):
            shard_path(self.writer.folder, file).unlink(missing_ok=True)
        return []
