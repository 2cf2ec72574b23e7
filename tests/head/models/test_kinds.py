"""A stored head names its kind, and no other name is taken for it."""

from dataclasses import asdict

import pytest

from head.models.baselines import LinearHead, LinearShape
from head.models.kinds import head_as_json, head_from_json

SHAPE = LinearShape(7)


def test_a_stored_kind_gives_the_head_that_it_was() -> None:
    stored = head_as_json(LinearHead(SHAPE))
    assert stored == {"kind": "linear", "shape": asdict(SHAPE)}
    assert isinstance(head_from_json(stored["kind"], stored["shape"]), LinearHead)


@pytest.mark.parametrize("kind", ["ridge", "unheard of"])
def test_a_kind_that_no_run_stores_is_refused(kind: str) -> None:
    with pytest.raises(KeyError, match=kind):
        head_from_json(kind, asdict(SHAPE))
