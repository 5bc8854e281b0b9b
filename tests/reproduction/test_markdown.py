"""The table as it is printed, of records that are known."""

from dataclasses import replace
from functools import partial

from small_table import compared, measured, run, table, train

from ppl_vae.reproduction import Published, Row, markdown


def test_the_table_of_known_records():
    known = table()
    published = {"NELBO": [Published("40.0", "A", "0.5")], "KL": [Published("20", "A")]}
    object.__setattr__(known.rows[1], "published", published)
    text = markdown(known, [measured(1, 41.0), measured(0, 43.0), measured(0, 44.0, "bf16-mixed")])
    assert text == (
        "| row | quantity | published | ours | s.e. | difference |\n"
        "|---|---|---|---|---|---|\n"
        "| second (shortened), 2 seeds | KL | 20 [A] |  |  |  |\n"
        "|  | NELBO | 40.0 ± 0.5 [A] | 42.00 ± 1.41 | 0.30 | +2.00 |\n"
        "| second, bf16-mixed (shortened), 1 seed | KL | 20 [A] |  |  |  |\n"
        "|  | NELBO | 40.0 ± 0.5 [A] | 44.00 | 0.30 | +4.00 |\n"
        "\n"
        "As in the paper. second: 6 steps for 9.\n"
        "\n"
        "Sources: [A] a paper.\n"
        "\n"
        "Not run yet: first | row.\n"
        "\n"
        "`ppl-vae reproduce small --seeds 2` (2 of its 4 runs) and "
        "`ppl-vae reproduce small --seeds 1 --precision bf16-mixed` (1 of its 2 runs), "
        "1.5 hours of wall time in all on a CPU, 1 thread, torch 2.14.\n"
    )


def test_without_published_numbers_quantities_stand_side_by_side():
    one, other = measured(1, 41.0), measured(0, 43.0)
    for record in (one, other):
        record.quantities["active units"] = {"value": 2.0, "standard_error": None}
    unknown = replace(table(), rows=(replace(table().rows[1], published={}),))
    assert markdown(unknown, [one, other]).splitlines()[:3] == [
        "| row | NELBO | active units |",
        "|---|---|---|",
        "| second (shortened), 2 seeds | 42.00 ± 1.41 (0.30) | 2.00 ± 0.00 |",
    ]


def test_differences_between_rows_stand_beside_those_in_print():
    known = compared(published={"NELBO": [Published("38.50", "A")]}, shortened="6 steps")
    one, other = measured(0, 44.0, row="first | row"), measured(0, 41.0)
    other.differences = {"first | row": {"NELBO": {"value": -3.0, "standard_error": 0.05}}}
    lines = markdown(known, [one, other]).splitlines()
    assert lines[3:5] == [
        "| second (shortened), 1 seed | NELBO | 38.50 [A] | 41.00 | 0.30 | +2.50 |",
        "|  | NELBO minus that of first \\| row | -1.50 [A] | -3.00 | 0.05 | -1.50 |",
    ]
    # From another source, there is none in print.
    first, second = known.rows
    second = replace(second, published={"NELBO": [Published("38.5", "B")]})
    known = replace(known, rows=(first, second), sources={"A": "", "B": ""})
    line = markdown(known, [one, other]).splitlines()[4]
    assert line == "|  | NELBO minus that of first \\| row |  | -3.00 | 0.05 |  |"
    # What two sources have stands side by side.
    both = [Published("38.5", "B"), Published("44.00", "A")]
    known = replace(known, rows=(first, replace(second, published={"NELBO": both})))
    assert markdown(known, [one, other]).splitlines()[3:5] == [
        "| second (shortened), 1 seed | NELBO | 38.5 [B]; 44.00 [A] | 41.00 | 0.30 | "
        "+2.50; -3.00 |",
        "|  | NELBO minus that of first \\| row | 4.00 [A] | -3.00 | 0.05 | -7.00 |",
    ]
    unpublished = tuple(replace(row, published={}) for row in known.rows)
    assert markdown(replace(known, rows=unpublished), [one, other]).splitlines()[:4] == [
        "| row | NELBO | NELBO minus that of first \\| row |",
        "|---|---|---|",
        "| first \\| row, 1 seed | 44.00 (0.30) |  |",
        "| second (shortened), 1 seed | 41.00 (0.30) | -3.00 (0.05) |",
    ]


def test_rows_that_were_shortened_alike_are_said_once():
    alike = partial(Row, train=train, measure={}, shortened="9 steps")
    rows = (
        *table().rows,
        *(alike(name=name) for name in ("third", "fourth")),
        alike(name="fifth", deviation="other networks"),
        *(alike(name=f"two layers, K = {k}", shortened="5 steps") for k in (1, 5)),
    )
    made = replace(table(), rows=rows)

    def below(*names):
        found = [replace(measured(0, 41.0, row=name), extent="shortened") for name in names]
        return markdown(made, found).split("\n\n")[1]

    assert below("third", "fourth") == "As in the paper. All rows: 9 steps."
    assert below("third") == "As in the paper. third: 9 steps."
    assert below("fifth", "fourth", "second", "third", "first | row") == (
        "As in the paper. second: 6 steps for 9. third; fourth: 9 steps. fifth: 9 steps; other "
        "networks."
    )
    layers = ("two layers, K = 1", "two layers, K = 5")
    assert below("third", *layers) == (
        "As in the paper. third: 9 steps. Two layers, all rows: 5 steps."
    )


def test_a_smoke_run_is_compared_with_nothing(tmp_path):
    text = run(table(), tmp_path, seeds=1, extent="smoke")
    line = next(line for line in text.splitlines() if "NELBO" in line)
    cells = line.replace("\\|", "").strip("|").split("|")
    assert cells[0].strip() == "first  row (smoke), 1 seed"
    assert not cells[2].strip()
    assert not cells[5].strip()


def test_what_has_fewer_seeds_than_its_row_says_so():
    known = [measured(0, 41.0), measured(1, 43.0)]
    known[0].quantities["KL"] = {"value": 20.0, "standard_error": 0.1}
    lines = markdown(table(), known).splitlines()
    assert lines[2:4] == [
        "| second (shortened), 2 seeds | NELBO |  | 42.00 ± 1.41 | 0.30 |  |",
        "|  | KL, 1 seed |  | 20.00 | 0.10 |  |",
    ]
    unpublished = tuple(replace(row, published={}) for row in table().rows)
    line = markdown(replace(table(), rows=unpublished), known).splitlines()[2]
    assert line == "| second (shortened), 2 seeds | 42.00 ± 1.41 (0.30) | 20.00 (0.10), 1 seed |"


def test_a_difference_of_zero_has_no_sign_of_its_own():
    known = [replace(measured(0, 39.999), row="first | row", extent="whole")]
    assert markdown(table(), known).splitlines()[2].endswith("| 40.00 | 0.30 | +0.00 |")


def test_a_count_of_one_seed_is_whole():
    counted = measured(0, 40.0, row="first | row")
    counted.quantities["active units"] = {"value": 19.0, "standard_error": None}
    published = {"active units": [Published("20", "A")], "NELBO": [Published("40", "A")]}
    one = replace(table(), rows=(replace(table().rows[0], published=published),))
    lines = markdown(one, [counted]).splitlines()[2:4]
    assert lines[0].endswith("| NELBO | 40 [A] | 40.00 | 0.30 | +0.00 |")
    assert lines[1] == "|  | active units | 20 [A] | 19 |  | -1 |"
    share = replace(counted, quantities={"k̂ > 0.7, %": {"value": 98.68, "standard_error": None}})
    assert "| 98.68 |" in markdown(one, [share])
    several = markdown(one, [counted, replace(counted, seed=1)])
    assert "| 19.00 ± 0.00 |  | -1.00 |" in several
