"""Numbers of ratings, standard errors and reliabilities are read beside scores, and what does not fit is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from featcache.base.agreement import spearman_brown
from featcache.base.errors import BadInput
from featcache.datasets.dataset import open_dataset
from featcache.datasets.reliability import (
    Raters,
    Reliability,
    merge_raters,
    merge_reliability,
    published_reliability,
    reliability_of,
)
from tests.featcache.datasets.test_ratings import write
from tests.helpers.rated_tables import RELIABILITY, write_facts

RATED = "image,score,n,se,split\na.jpg,1,4,0.5,train\nb.jpg,0,1,,train\nc.jpg,2.5,12,0,test\n"
IMAGES = ("a.jpg", "b.jpg", "c.jpg")


def columns_of(raters: Raters) -> tuple[list[int], list[int] | None, list[float] | None]:
    counts, errors = raters.counts, raters.errors
    return (
        raters.rows.tolist(),
        None if counts is None else counts.tolist(),
        None if errors is None else np.nan_to_num(errors, nan=-1).tolist(),
    )


def test_numbers_and_errors_of_ratings_are_no_targets_and_it_is_said(tmp_path: Path) -> None:
    found = open_dataset(write(tmp_path, RATED, images=IMAGES))
    assert (list(found.ratings), found.ignored) == ([""], ())
    assert columns_of(found.raters[""]) == ([0, 1, 2], [4, 1, 12], [0.5, -1, 0])
    assert "column 'n' is read as the number of ratings of 'score'" in found.notes
    assert "column 'se' is read as the standard error of 'score'" in found.notes
    assert found.reliability == {}


def test_of_several_ratings_each_has_its_own(tmp_path: Path) -> None:
    text = (
        "path,score.beauty,beauty_n,score.calm,score.calm_se,n,split\n"
        "a.jpg,1,4,3,0.5,9,train\nb.jpg,2,5,,,9,train\nc.jpg,3,6,1,0.25,9,test\n"
    )
    found = open_dataset(write(tmp_path, text, images=IMAGES))
    assert list(found.ratings) == ["beauty", "calm"]
    assert columns_of(found.raters["beauty"]) == ([0, 1, 2], [4, 5, 6], None)
    assert columns_of(found.raters["calm"]) == ([0, 2], None, [0.5, 0.25])
    assert found.ignored == ("n",)


def test_a_named_column_of_scores_has_those_of_its_name(tmp_path: Path) -> None:
    text = "path,MOS z,MOS z_n,split\na.jpg,1,4,train\nb.jpg,2,5,train\n"
    found = open_dataset(write(tmp_path, text, images=IMAGES), score_columns=["MOS z"])
    assert columns_of(found.raters[""]) == ([0, 1], [4, 5], None)


def test_what_are_no_such_numbers_is_told_with_its_line(tmp_path: Path) -> None:
    text = "path,score,n,se\na.jpg,1,4.5,0.1\nb.jpg,2,0,0.1\nc.jpg,3,,0.1\nd.jpg,4,7,-1\ne.jpg,5,7,x\n"
    with pytest.raises(BadInput) as caught:
        open_dataset(write(tmp_path, text))
    lines = str(caught.value).splitlines()[1:6]
    assert [line.partition(".csv:")[2] for line in lines] == [
        *(
            f"{k}: of '{image}' the number of ratings is not a whole number from 1: '{cell}'; "
            "rename its column if it is something else"
            for k, image, cell in ((2, "a.jpg", "4.5"), (3, "b.jpg", "0"), (4, "c.jpg", ""))
        ),
        *(
            f"{k}: of '{image}' the standard error is not a number from 0: '{cell}'; "
            "rename its column if it is something else"
            for k, image, cell in ((5, "d.jpg", "-1"), (6, "e.jpg", "x"))
        ),
    ]


def test_the_reliability_beside_a_table_is_read_if_it_is_of_that_table(tmp_path: Path) -> None:
    table = Path(write(tmp_path, RATED, images=IMAGES))
    facts = write_facts(table)
    found = open_dataset(str(table))
    values = {key: value for key, value in RELIABILITY.items() if key not in ("halvings", "curve")}
    assert found.reliability == {"": Reliability(source="mine.json", **values)}  # type: ignore[arg-type]
    assert "ceiling of a model's rho: 0.866, 95% interval 0.810 to 0.910 (mine.json)" in found.notes
    table.write_text(RATED.replace("a.jpg,1", "a.jpg,2"))
    with pytest.raises(BadInput, match="mine.json: it is of another table than mine.csv is now.*amnet ratings.*move"):
        open_dataset(str(table))
    facts.unlink()
    assert open_dataset(str(table)).reliability == {}


@pytest.mark.parametrize("text", ["{", "[1]", '{"mood": 1}', "\ud800"])
def test_other_json_beside_a_table_is_left_alone(tmp_path: Path, text: str) -> None:
    table = Path(write(tmp_path, RATED, images=IMAGES))
    table.with_suffix(".json").write_bytes(text.encode("utf-8", "surrogatepass"))
    found = open_dataset(str(table))
    assert found.reliability == {}
    assert "mine.json beside the table says nothing of its reliability, ignored" in found.notes


def test_of_several_ratings_it_is_of_the_one_that_it_names(tmp_path: Path) -> None:
    text = "path,score.beauty,score.calm,split\na.jpg,1,3,train\nb.jpg,2,4,train\n"
    table = Path(write(tmp_path, text, images=IMAGES))
    write_facts(table, score="calm")
    assert list(open_dataset(str(table)).reliability) == ["calm"]
    write_facts(table, score="mood")
    with pytest.raises(BadInput, match='several ratings; expected "score" to be one of beauty, calm'):
        open_dataset(str(table))


def test_a_dataset_of_split_files_may_say_its_own(tiny_dataset: Path, tmp_path: Path) -> None:
    for name in ("images", "splits"):
        (tmp_path / name).symlink_to(tiny_dataset / name)
    path = tmp_path / "reliability.json"
    path.write_text('{"reliability": {"split_half": 0.68}}')
    (found,) = open_dataset(str(tmp_path)).reliability.values()
    assert (found.split_half, found.source, found.ceiling_low) == (0.68, "reliability.json", None)
    assert found.full == pytest.approx(2 * 0.68 / 1.68)
    assert found.ceiling == pytest.approx(math.sqrt(2 * 0.68 / 1.68))
    for text, message in (
        ("{", "reliability.json: Expecting"),
        ("[]", "does not say a reliability; expected"),
        ('{"reliability": {}}', "expected split_half, full or ceiling"),
        ('{"reliability": 3}', "to be an object"),
        ('{"reliability": {"full": 1.5}}', "full must be a number from -1 to 1, found 1.5"),
        ('{"reliability": {"full": 0.5, "full_low": 0.4}}', "must be there together"),
        ('{"reliability": {"full": 0.5}, "ratings_format_version": 9}', "ratings format 9, this program reads 1"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            open_dataset(str(tmp_path))


@pytest.mark.parametrize("said", [{"split_half": -0.1}, {"split_half": None, "full": None, "ceiling": None}])
def test_raters_that_do_not_agree_set_no_ceiling(tmp_path: Path, said: dict[str, float | None]) -> None:
    assert reliability_of(said, "it") is None
    table = Path(write(tmp_path, RATED, images=IMAGES))
    write_facts(table, said)
    found = open_dataset(str(table))
    assert found.reliability == {}
    assert "warning: mine.json: raters are not known to agree, so there is no ceiling" in found.notes


def test_bounds_are_carried_over_as_values_are() -> None:
    found = reliability_of({"split_half": 0.6, "split_half_low": 0.5, "split_half_high": 0.7}, "it")
    assert found is not None
    bounds = (found.full_low, found.full, found.full_high)
    assert bounds == pytest.approx([spearman_brown(r) for r in (0.5, 0.6, 0.7)])
    assert (found.ceiling_low, found.ceiling_high) == pytest.approx((math.sqrt(2 / 3), math.sqrt(1.4 / 1.7)))
    assert reliability_of(json.loads(json.dumps(found.as_json())), "it") == found
    below = reliability_of({"full": 0.2, "full_low": -0.1, "full_high": 0.4}, "it")
    assert below is not None and (below.ceiling_low, below.ceiling_high, below.full_low) == (None, None, -0.1)


def test_what_was_published_of_lamem_is_of_half_of_its_raters() -> None:
    found = published_reliability({"dataset": "lamem", "root": "data/lamem"})
    assert found is not None
    assert found.split_half == 0.68
    assert (found.full, found.ceiling) == (pytest.approx(0.8095, abs=1e-4), pytest.approx(0.8997, abs=1e-4))
    assert published_reliability({"dataset": "lamem", "images": "mine"}) is None
    assert published_reliability({"dataset": "sun"}) is None


def raters(rows: list[int], counts: list[int] | None, errors: list[float] | None) -> dict[str, Raters]:
    return {
        "": Raters(
            np.array(rows),
            None if counts is None else np.array(counts),
            None if errors is None else np.array(errors),
        )
    }


def test_raters_of_several_caches_are_joined_and_contradictions_refused() -> None:
    first = (raters([0, 1], [3, 4], [0.1, math.nan]), {0: "a", 1: "b"})
    second = (raters([1, 0], [4, 7], [math.nan, 0.3]), {0: "c", 1: "b"})
    row_of = {"a": 2, "b": 0, "c": 1}
    assert columns_of(merge_raters([first, second], row_of)[""]) == ([2, 0, 1], [3, 4, 7], [0.1, -1, 0.3])
    without = (raters([0], [7], None), {0: "c"})
    assert columns_of(merge_raters([first, without], row_of)[""]) == ([2, 0, 1], [3, 4, 7], None)
    other = (raters([0, 1], [3, 5], [0.2, math.nan]), {0: "a", 1: "b"})
    with pytest.raises(BadInput) as caught:
        merge_raters([first, other], row_of)
    assert "b has two: number of ratings 4 and 5" in str(caught.value)
    assert "a has two: standard error 0.1 and 0.2" in str(caught.value)


def test_a_reliability_that_inputs_do_not_share_is_left_out_and_said() -> None:
    one, other, notes = Reliability(0.9, "a"), Reliability(0.8, "a"), list[str]()
    assert merge_reliability([{"": one}, {"": one}], notes) == {"": one}
    assert notes == []
    assert merge_reliability([{"": one, "b": one}, {"": other, "b": one}], notes) == {"b": one}
    assert merge_reliability([{"": one}, {}], notes) == {}
    assert len(notes) == 2 and notes[0].startswith("warning: the inputs do not have one reliability in common")
