"""The command: tables of ratings and logs of memory games in, a table of scores and its facts out."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from featcache.datasets.dataset import open_dataset
from tests.helpers.command_line import amnet, told
from tests.helpers.raters import Game, draw_ratings, play, write_table

LOG = "image,worker,condition,response,trial"
FEW = "image,worker,rating\na.jpg,w1,3\nb.jpg,w1,5\na.jpg,w2,1\nb.jpg,w2,2\nc.jpg,w2,2\n"


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "table.csv") -> Path:
    Path(name).write_text(text)
    return Path(name)


def scores(path: str = "ratings.csv") -> dict[str, tuple[float, int]]:
    lines = [line.split(",") for line in Path(path).read_text().splitlines()]
    assert lines[0] == ["image", "score", "n", "se"]
    return {image: (float(score), int(n)) for image, score, n, _ in lines[1:]}


def facts(path: str = "ratings.json") -> dict:
    return json.loads(Path(path).read_text())


def left_out(word: str) -> tuple[int, int]:
    return next((one["workers"], one["responses"]) for one in facts()["left_out"] if word in one["rule"])


def test_means_and_their_errors_are_written_sorted_with_the_facts_beside() -> None:
    result = amnet("ratings", write(FEW), "--score", "mean")
    assert scores() == {"a.jpg": (2.0, 2), "b.jpg": (3.5, 2), "c.jpg": (2.0, 1)}
    assert Path("ratings.csv").read_text().splitlines()[1:] == ["a.jpg,2.0,2,1.0", "b.jpg,3.5,2,1.5", "c.jpg,2.0,1,"]
    found = facts()
    assert found["table_sha256"] == hashlib.sha256(Path("ratings.csv").read_bytes()).hexdigest()
    assert (found["ratings_format_version"], found["images"], found["workers"], found["responses"]) == (1, 3, 2, 5)
    assert found["recipe"]["columns"] == {"image": "image", "worker": "worker", "rating": "rating"}
    assert "ratings.csv: mean of 3 images" in result.stdout and "5 of 2 workers" in result.stdout


def test_json_is_the_facts_and_the_same_command_may_run_again() -> None:
    table = write(FEW)
    first = amnet("ratings", table, "--score", "zmean", "--json")
    assert json.loads(first.stdout) == facts()
    assert amnet("ratings", table, "--score", "zmean", "--json").stdout == first.stdout


def test_a_table_of_likert_ratings_recovers_the_true_scores_and_its_ceiling() -> None:
    true = np.random.default_rng(1).normal(size=61)
    lines = draw_ratings(true, workers=40, share=0.5, bias=1, noise=1, seed=2)
    write_table(Path("table.csv"), "Image Name;Rater-ID;score", [])
    Path("table.csv").write_text(
        "Image Name;Rater-ID;score\n"
        + "".join(f"{i};r{w};{f'{rating:.3f}'.replace('.', ',')}\n" for i, w, rating in lines)
    )
    result = amnet("ratings", "table.csv", "--score", "zmean", "--halvings", 25)
    found, reliability = scores(), facts()["reliability"]
    rho = stats.spearmanr([found[str(i)][0] for i in range(61)], true).statistic
    assert reliability["ceiling_low"] < rho < 1 and reliability["ceiling"] == pytest.approx(rho, abs=0.05)
    assert reliability["full"] == pytest.approx(2 * reliability["split_half"] / (1 + reliability["split_half"]))
    assert "column 'Rater-ID' is read as the worker" in result.stderr and "decimal commas" in result.stderr


def test_a_memory_game_gives_hits_corrected_hits_and_leaves_careless_players_out() -> None:
    rng = np.random.default_rng(3)
    game = Game(rng.uniform(0.4, 0.9, 23), rng.uniform(0.05, 0.3, 23), -0.05)
    write_table(Path("log.csv"), LOG, play(game, workers=150, careless=4, seed=4))
    for score in ("hits", "hr-fa", "dprime", "lag"):
        result = amnet("ratings", "log.csv", "--score", score, "--out", f"{score}.csv", "--halvings", 5)
        assert "condition 'target' is taken as target-first" in result.stderr
        assert facts(f"{score}.json")["workers"] == 146
        assert [one["workers"] for one in facts(f"{score}.json")["left_out"] if "vigilance" in one["rule"]] == [4]
    lagged = facts("lag.json")["lag_slope"]
    assert lagged["a"] == pytest.approx(-0.05, abs=4 * lagged["se"])
    hits, corrected, less_alarms = (scores(f"{name}.csv") for name in ("hits", "lag", "hr-fa"))
    for k in range(23):
        n = hits[f"t{k}.jpg"][1]
        assert corrected[f"t{k}.jpg"][0] == pytest.approx(game.hit[k], abs=4 * np.sqrt(0.25 / n) + 0.02)
        expected = hits[f"t{k}.jpg"][0] - game.false_alarm[k]
        assert less_alarms[f"t{k}.jpg"][0] == pytest.approx(expected, abs=4 * np.sqrt(0.21 / n))


def test_a_line_for_each_repeat_with_both_positions_is_read_as_such() -> None:
    lines = ["video_id,user_id,rt,key_press,video_position_first,video_position_second"]
    lines += [f"v{k % 3},u{k // 3},500,{(k // 3) % 2 * 32 or ''},{k + 1},{k + 1 + 20 * (1 + k % 5)}" for k in range(33)]
    result = amnet("ratings", write("\n".join(lines)), "--score", "lag", "--response-word", "32=yes")
    assert scores()["v0"][1] == 11
    assert "response '' is taken as no" in result.stderr
    assert "every line is read as the repeat of a target" in result.stderr
    assert "columns, ignored: 'rt'" in result.stderr


def test_showings_may_have_a_column_of_their_own_and_fillers_shown_again_are_vigilance() -> None:
    shown = [(image, showing) for image in "abf" for showing in (1, 2)]
    kinds, answers = {"a": "target", "b": "target", "f": "filler"}, {1: "new", 2: "old"}
    lines = [f"{i},w{w},{kinds[i]},{showing},{answers[showing]}" for w in range(3) for i, showing in shown]
    amnet("ratings", write("item,participant,trial_type,presentation,response\n" + "\n".join(lines)), "--score", "hits")
    assert scores() == {"a": (1.0, 3), "b": (1.0, 3)}
    assert facts()["trials"] == {"first_showings": 9, "target_repeats": 6, "vigilance_repeats": 3}
    assert facts()["recipe"]["words"]["showing"] == {"1": "first", "2": "repeat"}


def test_without_conditions_the_order_of_trials_tells_repeats() -> None:
    text = "image,worker,response,trial\na,w,yes,90\na,w,no,15\nb,w,no,1\na,w,yes,120\nb,w,,30\n"
    result = amnet("ratings", write(text), "--score", "hits")
    assert scores() == {"a": (1.0, 1)}
    assert left_out("beyond one first") == (0, 1) and left_out("response is missing") == (0, 1)
    assert "told apart by the order of trials" in result.stderr


def test_missing_and_repeated_ratings_are_counted_and_the_first_one_counts() -> None:
    text = FEW + "a.jpg,w1,9\nc.jpg,w1,NA\n\nb.jpg,w3,\n"
    result = amnet("ratings", write(text), "--score", "mean")
    assert scores()["a.jpg"] == (2.0, 2)
    assert left_out("rated the image before") == (0, 1) and left_out("rating is missing") == (0, 2)
    assert "2 responses: the rating is missing" in result.stdout


def test_workers_are_left_out_by_each_rule_and_counted() -> None:
    text = FEW + "a.jpg,w3,4\nb.jpg,w4,4\na.jpg,w4,4\n"
    amnet("ratings", write(text), "--score", "zmean", "--out", "z.csv")
    rules = {one["rule"]: (one["workers"], one["responses"]) for one in facts("z.json")["left_out"]}
    assert rules["workers with a single rating have no z-score"] == (1, 1)
    assert rules["workers whose ratings are all equal have no z-score"] == (1, 2)
    amnet("ratings", "table.csv", "--score", "mean", "--fewest-responses", 2)
    assert left_out("fewer than 2 ratings") == (1, 1)
    log = "image,worker,condition,response,trial\n" + "".join(
        f"a,{w},target,{alarm},1\na,{w},target,1,50\nb,{w},filler,{alarm},2\n" for w, alarm in (("w1", 0), ("w2", 1))
    )
    amnet("ratings", write(log, "log.csv"), "--score", "hits")
    assert left_out("false alarms") == (1, 3) and scores() == {"a": (1.0, 1)}
    amnet("ratings", "log.csv", "--score", "hits", "--most-false-alarms", 1)
    assert left_out("false alarms") == (0, 0) and scores() == {"a": (1.0, 2)}


def test_the_table_is_a_dataset(desk: Path) -> None:
    from PIL import Image

    for name in "abc":
        Image.new("RGB", (70, 70)).save(desk / f"{name}.jpg")
    amnet("ratings", write(FEW), "--score", "mean")
    found = open_dataset("ratings.csv")
    assert sorted(found.names) == ["a.jpg", "b.jpg", "c.jpg"]
    assert found.drawing is not None and {line.score for line in found.drawing.lines[""]} == {2.0, 3.5}


def test_what_cannot_be_guessed_is_one_error() -> None:
    text = "image,picture name,rater,observer,x\na,a,w,w,3\n"
    message = amnet("ratings", write(text.replace("image,", "photo,")), "--score", "mean", status=3).stderr
    assert "the image could be any of 'photo', 'picture name'" in message
    assert "--worker-column rater or --worker-column observer" in message
    assert "no column is called as a rating is: --rating-column NAME" in message
    log = "image,worker,condition,response\na,w,blue,left\na,w,target,right\n"
    message = amnet("ratings", write(log), "--score", "lag", status=3).stderr
    assert "no column is called as a trial or a lag is" in message
    message = amnet("ratings", write(log), "--score", "hits", status=3).stderr
    assert "condition 'blue' (1 line) is not known: --condition-word blue=MEANING, one of target," in message
    assert "response 'left'" in message and "response 'right'" in message
    many = "image,worker,response\n" + "".join(f"a,w{k},{k}\n" for k in range(60))
    assert "60 different words" in amnet("ratings", write(many), "--score", "hits", status=3).stderr
    assert not Path("ratings.csv").exists()


GAME = "image,worker,response,trial\n" + "".join(
    f"{image},{worker},{first},{10 * k + 1}\n{image},{worker},{again},{10 * k + 6}\n"
    for worker in ("w1", "w2", "w3")
    for k, (image, first, again) in enumerate([("a", "no", "yes"), ("b", "no", "no"), ("c", "no", "yes")])
)


@pytest.mark.parametrize("score", ["hits", "hr-fa", "dprime", "lag"])
def test_a_line_of_a_log_that_is_there_twice_is_no_repeat(score: str) -> None:
    once = "d,w1,no,50\n"
    amnet("ratings", write(GAME + once, "once.csv"), "--score", score, "--out", "expected.csv")
    result = amnet("ratings", write(GAME + once + once + "a,w1,yes,1\n"), "--score", score)
    assert scores() == scores("expected.csv") and "d" not in scores()
    assert left_out("the same worker, image and trial") == (0, 2) and left_out("beyond one first") == (0, 0)
    assert "left out     2 responses: the same worker, image and trial as a line before" in result.stdout


def test_a_doubled_line_does_not_take_the_place_of_the_repeat() -> None:
    amnet("ratings", write(GAME.replace("a,w1,no,1\n", "a,w1,no,1\na,w1,no,1\n")), "--score", "lag")
    assert scores()["a"] == (1.0, 3)


def test_a_first_showing_and_a_repeat_of_one_trial_are_refused_for_lag_and_told_otherwise() -> None:
    log = "image,worker,showing,response,trial\na,w,first,no,9\na,w,repeat,yes,9\nb,w,first,no,10\nb,w,repeat,yes,12\n"
    message = amnet("ratings", write(log), "--score", "lag", status=3).stderr
    assert "table.csv:3: the repeat does not come after the first showing" in message and "table.csv:5" not in message
    result = amnet("ratings", "table.csv", "--score", "hits")
    assert scores() == {"a": (1.0, 1), "b": (1.0, 1)} and left_out("the same worker, image and trial") == (0, 0)
    assert "warning: 1 target's repeat not after the first showing by trials or lags" in result.stderr


def test_a_log_without_conditions_says_that_no_vigilance_is_judged() -> None:
    result = amnet("ratings", write(GAME), "--score", "hits", "--least-vigilance-hits", 0.9)
    rule = "no response is to a vigilance repeat, so --least-vigilance-hits 0.9 leaves nobody out"
    assert "there are no conditions: every repeat counts as that of a target" in result.stderr and rule in result.stderr
    assert rule in facts()["recipe"]["guessed"]
    assert "vigilance" not in amnet("ratings", "table.csv", "--score", "hits", "--least-vigilance-hits", 0).stderr
    named = GAME.replace("image,", "condition,image,").replace("\n", "\nx,").removesuffix("x,")
    result = amnet("ratings", write(named), "--score", "hits", "--condition-word", "x=target")
    assert "every repeat counts" not in result.stderr and "vigilance-hits 0.5 leaves nobody out" in result.stderr
    other = named + "v,v,w1,no,90\nv,v,w1,yes,91\n"
    words = ("--condition-word", "x=target", "--condition-word", "v=vigilance")
    assert "leaves nobody out" not in amnet("ratings", write(other), "--score", "hits", *words).stderr


def test_a_range_of_ratings_shows_a_code_for_missing_ones() -> None:
    for score in ("mean", "zmean"):
        result = amnet("ratings", write(FEW + "c.jpg,w1,-1\n"), "--score", score)
        assert facts()["rating_range"] == {"least": -1.0, "most": 5.0}
        assert "ratings      -1 to 5" in result.stdout.splitlines()
    amnet("ratings", write(GAME), "--score", "hits")
    assert "rating_range" not in facts()


def test_intervals_are_explained_only_where_there_are_some_and_single_things_are_not_plural() -> None:
    result = amnet("ratings", write(FEW + "a.jpg,w1,4\nc.jpg,w1,4\n"), "--score", "mean", "--halvings", 1)
    assert "consistency  0.866: " in result.stdout and "parentheses" not in result.stdout
    assert "1 response: a worker rated" in result.stdout and "mean of 1 halving\n" in result.stdout
    write_table(
        Path("table.csv"),
        "image,worker,rating",
        list(draw_ratings(np.arange(5.0), workers=5, share=1, bias=0, noise=1, seed=1)),
    )
    assert "in parentheses 95% intervals" in amnet("ratings", "table.csv", "--score", "mean").stdout
    result = amnet("ratings", write("image,worker,rating\na,w,1\n"), "--score", "mean")
    assert "mean of 1 image\n" in result.stdout and "1 of 1 worker, 1.0" in result.stdout
    message = amnet("ratings", write("x,worker,rating\na,w,1\n"), "--score", "mean", status=3).stderr
    assert "no column is called as an image is" in message


def test_a_score_of_another_kind_of_table_is_suggested_in_one_line() -> None:
    message = told(amnet("ratings", write(GAME), "--score", "mean", status=3))
    assert (
        len(message.splitlines()) == 1 and "column 'response' has words such as 'no', which are no ratings" in message
    )
    of_logs = "those of a memory game's log: --score hits, hr-fa, dprime or lag."
    assert f"The columns 'response', 'trial' are {of_logs}" in message
    shown = "image,worker,condition,response\na,w,target,0\na,w,target,1\n"
    message = amnet("ratings", write(shown), "--score", "mean", status=3).stderr
    assert "if it is a rating: --rating-column response" in message and of_logs in message
    amnet("ratings", "table.csv", "--score", "mean", "--rating-column", "response")
    binary = GAME.replace(",no,", ",0,").replace(",yes,", ",1,")
    assert "warning: all ratings are 0 or 1" in amnet("ratings", write(binary), "--score", "mean").stderr
    for table in (FEW, FEW.replace("rating", "answer")):
        assert "--score mean or zmean." in amnet("ratings", write(table), "--score", "hits", status=3).stderr


def test_one_column_cannot_be_two_things() -> None:
    named = ("--image-column", "rating", "--rating-column", "rating")
    message = amnet("ratings", write(FEW), "--score", "mean", *named, status=2).stderr
    assert "--image-column and --rating-column name one column, 'rating'" in message


def test_logs_without_repeats_or_with_lags_that_cannot_be_are_refused() -> None:
    log = "image,worker,response,trial\na,w,yes,1\nb,w,no,2\n"
    assert "no image is shown to a worker twice" in amnet("ratings", write(log), "--score", "hits", status=3).stderr
    log = "image,worker,condition,response,trial\na,w,first,no,9\na,w,repeat,yes,2\n"
    assert (
        "table.csv:3: the repeat does not come after" in amnet("ratings", write(log), "--score", "lag", status=3).stderr
    )


def test_options_that_cannot_be_used_are_refused_before_anything_is_read() -> None:
    table = write("nothing")
    wrong = ("--halvings", 0, "--most-false-alarms", 2, "--trial-column", "t")
    message = amnet("ratings", table, "--score", "mean", *wrong, status=2).stderr
    assert "--halvings is between 1 and 1000" in message and "--most-false-alarms is between 0 and 1" in message
    assert "--trial-column: --score mean reads no such column" in message
    message = amnet("ratings", table, "--score", "hits", "--response-word", "j=perhaps", status=2).stderr
    assert "expected WORD=MEANING with one of the meanings yes, no, missing, ignored" in message
    message = amnet("ratings", write(FEW), "--score", "mean", "--worker-column", "who", status=2).stderr
    assert "--worker-column 'who': no column is called so" in message and "There are 'image', 'worker'" in message


def test_nothing_that_this_command_did_not_write_is_replaced() -> None:
    table = write(FEW)
    assert "holds the responses" in amnet("ratings", table, "--score", "mean", "--out", table, status=2).stderr
    assert "ends with .csv" in amnet("ratings", table, "--score", "mean", "--out", "scores.json", status=2).stderr
    mine = write("path,score\na.jpg,1\n", "ratings.csv")
    message = amnet("ratings", table, "--score", "mean", status=2).stderr
    assert "is not as `amnet ratings` wrote it; name another with --out" in message
    assert mine.read_text() == "path,score\na.jpg,1\n"
    mine.unlink()
    amnet("ratings", table, "--score", "mean")
    mine.write_text(mine.read_text().replace("2.0", "2.5"))
    assert "is not as" in amnet("ratings", table, "--score", "mean", status=2).stderr
