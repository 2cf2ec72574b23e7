"""Results that the AMNet paper prints: Tables 1 and 2, as data with their source."""

from dataclasses import dataclass

SOURCE = "Fajtl et al., AMNet: Memorability Estimation with Attention, CVPR 2018"


@dataclass(frozen=True)
class PublishedResult:
    """One line of a table: mean test rho over its splits, and MSE where it is given. deep is Fig. 7's red."""

    method: str
    rho: float
    mse: float | None
    deep: bool


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper, of how many splits, and the rho of people, where it is given."""

    title: str
    results: tuple[PublishedResult, ...]
    human: float | None = None


TABLES = {
    "lamem": PublishedTable(
        title="Table 1, 5 test splits",
        results=(
            PublishedResult("AMNet", 0.677, 0.0082, True),
            PublishedResult("AMNet (no attention)", 0.663, 0.0085, True),
            PublishedResult("MemNet", 0.64, None, True),
            PublishedResult("CNN-MTLES (50/50 split)", 0.5025, None, True),
        ),
        human=0.68,  # rank correlation between people, section 4.3, after Khosla et al. 2015
    ),
    "sun": PublishedTable(
        title="Table 2, 25 splits",
        results=(
            PublishedResult("Isola", 0.462, 0.017, False),
            PublishedResult("Mancas & Le Meur", 0.479, None, False),
            PublishedResult("AMNet", 0.649, 0.011, True),
            PublishedResult("AMNet (no attention)", 0.62, 0.012, True),
            PublishedResult("MemNet", 0.63, None, True),
            PublishedResult("MemoNet 30k", 0.636, 0.012, True),
            PublishedResult("Hybrid-CNN+SVR", 0.6202, 0.013, True),
        ),
    ),
}


def table_of(dataset: str, part: str) -> PublishedTable | None:
    """Return the paper's table of a dataset that is called 'lamem' or 'sun'; None for others, and for train and val."""
    return TABLES.get(dataset) if part == "test" else None
