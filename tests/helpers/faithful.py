"""What the maps of a head tell, made from numbers."""

from head.explain.faithfulness import ORDERS, SHARES, TESTS, Difference, Faithfulness


def faithful(
    name: str = "paper", *, random: tuple[float, float], centre: tuple[float, float], share: float = 0.1
) -> Faithfulness:
    """Return it of differences from random orders and from the centre with these intervals, in both tests."""
    differences = [
        Difference(test, against, share, (low + high) / 2, low, high)
        for test in TESTS
        for against, (low, high) in (("random", random), ("centre", centre))
    ]
    curves = {test: {order: (SHARES * (k + 1)).tolist() for k, order in enumerate(ORDERS)} for test in TESTS}
    return Faithfulness(name, "test", ("1", "2"), 200, 3, "look", 0.99, 1.5, 1.0, curves, tuple(differences))
