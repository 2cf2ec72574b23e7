"""What an extraction came to, and how it is said."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featcache.base.errors import list_problems
from featcache.extraction.timings import describe_shares
from featcache.store.folder import FAILURES_NAME


@dataclass(frozen=True)
class ExtractReport:
    """What a cache holds after extraction, and the images it had to leave out, as (name, reason).

    stages is the share of all busy time that each stage took, bottleneck the one that the others waited for.
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

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        absent = [{"name": name, "reason": reason} for name, reason in self.absent]
        return {**asdict(self), "folder": str(self.folder), "absent": absent}


def describe_report(report: ExtractReport) -> str:
    """Return what the cache holds and, if anything was computed, where the time went."""
    held = (
        f"{report.folder}: {report.images:,} images x {report.views} views, {report.bytes / 1e9:,.2f} GB, "
        f"{report.views_computed:,} views computed now; fingerprint {report.fingerprint[:16]}"
    )
    if not report.views_computed:
        return held
    shares = describe_shares(report.stages)
    return f"{held}\n{report.precision} by {report.runtime}; busy time: {shares}; bottleneck: {report.bottleneck}"


def describe_absent(report: ExtractReport) -> str:
    """Return which images were left out, why, and what to do."""
    way_out = f"They are listed in {report.folder / FAILURES_NAME}; mend them and run the same command again."
    problems = [f"{name}: {reason}" for name, reason in report.absent]
    return list_problems(f"{len(problems)} images were left out:", problems, way_out)
