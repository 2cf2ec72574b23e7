"""What may be asked of scores from responses; no numpy, so that `--help` is quick."""

from dataclasses import dataclass, field

from featcache.base.errors import InvalidSettings, refuse

OF_LOGS = ("hits", "hr-fa", "dprime", "lag")  # from the log of a memory game
OF_RATINGS = ("mean", "zmean")  # from a table of image, worker, rating
SCORES = (*OF_LOGS, *OF_RATINGS)
WHAT = ("image", "worker", "rating", "condition", "showing", "response", "trial", "first-trial", "lag")
USED_BY = {
    **dict.fromkeys(OF_LOGS, ("image", "worker", "condition", "showing", "response", "trial", "first-trial", "lag")),
    **dict.fromkeys(OF_RATINGS, ("image", "worker", "rating")),
}
REQUIRED = ("image", "worker", "rating", "response")
WITH_WORDS = ("condition", "showing", "response")


@dataclass(frozen=True)
class RatingSettings:
    """How scores are made; columns and words are what the user named, {} for all that is to be guessed.

    columns: a name by what it holds, of `WHAT`. words: by 'condition', 'showing' or 'response' the meaning of words.
    reference_lag is T in trials. Workers below least_vigilance_hits or fewest_responses, or above most_false_alarms,
    are left out. Raises `InvalidSettings`.
    """

    score: str
    columns: dict[str, str] = field(default_factory=dict)
    words: dict[str, dict[str, str]] = field(default_factory=dict)
    reference_lag: float = 75.0
    least_vigilance_hits: float = 0.5
    most_false_alarms: float = 0.5
    fewest_responses: int = 1
    halvings: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [] if self.score in SCORES else [f"--score is one of {', '.join(SCORES)}; found {self.score}"]
        if not 0 < self.reference_lag < float("inf"):
            problems.append(f"--reference-lag is above 0 trials; found {self.reference_lag:g}")
        for name in ("least_vigilance_hits", "most_false_alarms"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"--{name.replace('_', '-')} is between 0 and 1; found {getattr(self, name):g}")
        if self.fewest_responses < 1:
            problems.append(f"--fewest-responses is at least 1; found {self.fewest_responses}")
        if not 1 <= self.halvings <= 1000:
            problems.append(f"--halvings is between 1 and 1000; found {self.halvings}")
        if self.seed < 0:
            problems.append(f"--seed is 0 or more; found {self.seed}")
        if self.score in SCORES:
            used = USED_BY[self.score]
            problems += [f"--{what}-column: --score {self.score} reads no such column"
                         for what in self.columns if what not in used]  # fmt: skip
            problems += [f"--{what}-word: --score {self.score} reads no such column"
                         for what in self.words if what not in used]  # fmt: skip
        refuse(InvalidSettings, "these options cannot be used:", problems, "Nothing was read.")

    @property
    def of_log(self) -> bool:
        """Whether scores are of a memory game's log."""
        return self.score in OF_LOGS
