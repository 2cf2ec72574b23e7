"""What is said of predictions beside their table: which could not be read, what a folder has, where files went."""

from pathlib import Path

from head.evaluation.marks import ScoreRange
from head.prediction.folders import Folder
from head.prediction.predictor import Prediction
from head.prediction.text import Predictions

FOLDER = Folder(
    Path("photos"),
    [Path("photos/a.jpg"), Path("photos/b.png"), Path("photos/torn.jpg")],
    [(Path("photos/._a.jpg"), "macOS companion"), (Path("photos/.b.jpg"), "hidden"), (Path("photos/.c.jpg"), "hidden")],
)
FOUND = [
    Prediction(Path("photos/a.jpg"), 0.5, (0.125, 0.375), maps=Path("maps/a.jpg.npy")),
    Prediction(Path("photos/b.png"), 0.75, (0.25, 0.5), notes=("small: 1 x 1 pixels",)),
    Prediction(Path("photos/torn.jpg"), problem="truncated: 3 bytes"),
    Prediction(Path("alone.jpg"), 0.25, (0.125, 0.125)),
]


def test_images_that_could_not_be_read_are_named_with_the_reason() -> None:
    unread, *_ = Predictions(FOUND).warnings()
    assert unread.splitlines() == [
        "1 of 4 images could not be read:",
        "  photos/torn.jpg: truncated: 3 bytes",
        "Mend them or leave them out; the others are scored.",
    ]


def test_files_found_are_those_scored_unread_and_left_out() -> None:
    _, counted, note = Predictions(FOUND, [FOLDER]).warnings()
    assert counted == (
        "photos/: 6 files: 2 scored, 1 could not be read (torn.jpg), "
        "3 left out: 2 hidden (.b.jpg, .c.jpg), 1 macOS companion (._a.jpg)"
    )
    assert note.startswith(
        "warning: 1 image of fewer than 16 pixels on the shorter side: photos/b.png (1 x 1 pixels). "
    )
    sound = Folder(Path("photos"), FOLDER.images[:2], [])
    assert Predictions(FOUND[:1], [sound]).warnings() == ["photos/: 2 files: 2 scored"]


def test_json_has_the_notes_of_an_image_and_the_numbers_of_its_folder() -> None:
    of_folder, *others = Predictions(FOUND, [FOLDER]).as_json()
    numbers = {"folder": "photos", "found": 6, "scored": 2, "unread": 1}
    assert of_folder["found_in"] == {**numbers, "left_out": {"hidden": 2, "macOS companion": 1}}
    assert [one["found_in"] for one in others] == [of_folder["found_in"]] * 2 + [None]
    assert [one["notes"] for one in others] == [["small: 1 x 1 pixels"], [], []]


def test_where_the_table_and_the_maps_went_is_said() -> None:
    assert Predictions(FOUND).written(table=None, maps=None) == []
    assert Predictions(FOUND).written(table=Path("scores.csv"), maps=Path("maps")) == [
        "scores.csv: the table, 4 lines, the last column the problem of what was not scored",
        "maps/: maps of 1 images",
    ]


def test_scores_outside_the_range_of_training_or_hardly_apart_are_told() -> None:
    found = [Prediction(Path(f"{k}.jpg"), 0.9 + k / 100, outside_range=k > 8) for k in range(10)]
    outside, narrow = Predictions([*found, FOUND[2]], score_range=ScoreRange(0.0, 0.98)).warnings()[:2]
    assert outside.startswith("warning: 1 of 10 scores are outside 0 to 0.98, the range of the ratings")
    assert narrow.startswith("warning: all 10 scores are within 0.9 to 0.99, less than a tenth of 0 to 0.98")
    assert Predictions(found, score_range=ScoreRange(0.9, 1.0)).warnings() == []
    assert Predictions(found).warnings() == []


def test_notes_do_not_change_the_table(tmp_path: Path) -> None:
    Predictions(FOUND).write_csv(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().splitlines()[
        2
    ] == "photos/b.png,0.750000,0.250000,0.500000,no,unknown,"
