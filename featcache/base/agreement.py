"""What those who write and those who read how far raters agree have in common: the file's version, and one formula."""

import math

FORMAT_VERSION = 1  # of the JSON file beside a table of ratings
LARGEST_FILE = 16 << 20  # bytes of it


def spearman_brown(r: float, times: float = 2.0) -> float:
    """Return the reliability of so many times as many ratings, k r / (1 + (k - 1) r); NaN where that is no number.

    Spearman 1910, Brown 1910.
    """
    under = 1 + (times - 1) * r
    return times * r / under if under > 0 else math.nan
