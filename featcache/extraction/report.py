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
        return found
