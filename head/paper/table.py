"""The paper's tables on one dataset as text and JSON: each system's results, what the paper prints, and differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featcache.base.errors import FeatcacheError, counted
from featcache.base.progress import duration
from head.evaluation.compare import Comparison
from head.evaluation.people import HumanConsistency
from head.evaluation.statistics import OF_MEAN_RHO
from head.evaluation.summary import HeadSummary
from head.evaluation.text import aligned, format_comparisons, interval, mean_and_sd
from head.paper.systems import System
from head.show.figures.paper_tables import SOURCE, TABLES, PublishedResult


@dataclass(frozen=True)
class Row:
    """A system and its results on the dataset; comparison is with AMNet's, None for that itself and without it."""

    name: str
    system: System
    weights: str
    summary: HeadSummary
    comparison: Comparison | None

    @property
    def faith(self) -> str:
        """How faithful the row is; with random weights it shows no more than that the row can be made."""
        random = self.weights == "random" and self.system.reads_network
        return f"{self.system.faith}, random weights" if random else self.system.faith

    def as_json(self) -> dict[str, Any]:
        """Return the row as a JSON object, with what the paper prints of the system."""
        return {
            "row": self.name,
            "system": self.system.title,
            "faith": self.faith,
            "note": self.system.note,
            "settings": self.system.settings.as_json(),
            "published": {dataset: vars(found) for dataset in TABLES if (found := published(self.system, dataset))},
            **self.summary.as_json(),
            "compared": self.comparison.as_json() if self.comparison else None,
        }


def published(system: System, dataset: str) -> PublishedResult | None:
    """Return the paper's result of a system on 'sun' or 'lamem', None where it has none."""
    return next((one for one in TABLES[dataset].results if one.method == system.method), None)


@dataclass(frozen=True)
class PaperTable:
    """The rows, errors of those that could not be made, and how many seconds features and heads took in this run.

    people is how far people agree with people on the test images, where the dataset tells it.
    """

    dataset: str
    rows: Sequence[Row]
    errors: Sequence[FeatcacheError]
    notes: Sequence[str]
    people: HumanConsistency | None
    extraction_seconds: float
    training_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "dataset": self.dataset,
            "source": SOURCE,
            "rows": [row.as_json() for row in self.rows],
            "notes": list(self.notes),
            **({"human_consistency": self.people.as_json()} if self.people else {}),
            "problems": [str(error) for error in self.errors],
            "extraction_seconds": self.extraction_seconds,
            "training_seconds": self.training_seconds,
        }

    def as_text(self) -> str:
        """Return results beside the published ones, differences to AMNet, and what each row is; as far as there are."""
        if not self.rows:
            return ""
        made = f"features in {duration(self.extraction_seconds)}, heads in {duration(self.training_seconds)}, this time"
        return "\n\n".join(filter(None, [self._results(), self._differences(), self._what_rows_are(), made]))

    def warnings(self) -> list[str]:
        """Return what to know of the rows."""
        return [f"warning: {note}" for note in self.notes]

    def _results(self) -> str:
        lines = [["system", "row", "SUN", "LaMem", f"rho on {self.dataset}", "95% interval", "MSE"]]
        for row in self.rows:
            found, printed = row.summary.as_json(), [published(row.system, name) for name in ("sun", "lamem")]
            lines.append(
                [
                    row.system.title,
                    row.name,
                    *("-" if one is None else f"{one.rho:g}" for one in printed),
                    mean_and_sd(found, "rho", 3),
                    interval(found["rho_low"], found["rho_high"]),
                    mean_and_sd(found, "mse", 5),
                ]
            )
        splits, seed = self.rows[0].summary.as_json()["splits"], self.rows[0].system.settings.seed
        people = f"\n{self.people.as_text()}" if self.people else ""
        return (
            f"{aligned(lines)}{people}\nSUN, LaMem: rho that the paper prints ({SOURCE}); test part, "
            f"{counted(splits, 'split')}, seed {seed}; 95%: {OF_MEAN_RHO}"
        )

    def _differences(self) -> str:
        return format_comparisons([row.comparison for row in self.rows if row.comparison])

    def _what_rows_are(self) -> str:
        return aligned([["row", "how", ""], *([row.name, row.faith, row.system.note] for row in self.rows)])
