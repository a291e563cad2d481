from nested_fad_tf.report import tables
from nested_fad_tf.report.building import combined
from nested_fad_tf.report.summary import Kept, Report


def _function(name, before, after, reason="", kept=()):
    return Report(
        name, not reason, reason, "auto", kept=kept,
        kept_bytes_before=before << 20, kept_bytes_after=after << 20, nodes_before=10,
    )  # fmt: skip


def _report(functions, entries=()):
    return combined("model", functions, entries, "auto", 0.0)


_MANY = _report(
    [
        _function("nothing", 0, 0, "no gradient"),
        *(_function(f"f{i}", i, i - 1) for i in range(1, 21)),
        _function("no_loss", 0, 0, "no gradient"),
        _function("broken", 0, 0, "the pass failed: " + "word " * 100),
    ]
)


def test_functions_that_keep_least_share_a_row():
    rows = tables.functions(_MANY, applied=True).rows
    assert [row[0] for row in rows[:15]] == [f"f{i}" for i in range(20, 5, -1)]
    assert rows[0] == ("f20", "10", "20.00 -> 19.00", "rewritten")
    assert rows[15] == ("5 that keep less", "50", "15.00 -> 10.00", "5 rewritten")
    assert rows[16] == ("2 that keep nothing", "20", "0.00 -> 0.00", "no gradient")
    assert rows[17][0] == "broken"
    assert len(rows[17][3]) <= 160
    assert len(rows) == 18


def test_detailed_lists_every_function():
    rows = tables.functions(_MANY, applied=False, detailed=True).rows
    assert len(rows) == 23
    assert rows[0][3] == "would be rewritten"
    assert len(rows[-1][3]) > 500


def test_what_is_kept_is_told_of_what_is_called():
    tensor = Kept("t:0", "", "Mul", None, "float32", 1 << 20, "why")
    inner, outer = _function("inner", 1, 0, kept=(tensor,)), _function("outer", 2, 2)
    other = _function("other", 4, 1)
    entries = [("serve", [other]), ("train", [outer, *[inner] * 3]), ("idle", [])]
    report = _report([inner, outer, other], entries)
    assert (report.kept_bytes_before, report.kept_bytes_after) == (5 << 20, 2 << 20)
    assert report.kept == (tensor,) * 3
    rows = tables.entry_points(report).rows
    assert rows == (("train", "5.00 -> 2.00"), ("serve", "4.00 -> 1.00"))
    first, second, *_ = tables.totals(report, 1024, applied=True)
    assert first.startswith("kept for the backward pass: 5.00 -> 2.00 MiB (2.50x less); 3 of 3")
    assert "train with all that it calls" in second
    many = _report([other], [(f"f{i}", [other]) for i in range(20)])
    assert tables.entry_points(many).rows[-1] == ("5 that keep less", "")
    assert len(tables.entry_points(many, detailed=True).rows) == 20
    assert not tables.entry_points(_report([_function("f", 0, 0)], [("f", [])])).rows


def test_kept_tensors_are_listed_with_their_function():
    tensors = [
        Kept(f"t{i}:0", "", "Mul", (None, 8) if i else None, "float32", i << 20, "why")
        for i in range(13)
    ]
    report = _report([_function("f", 9, 9, kept=tuple(tensors)), _function("g", 9, 9)])
    table = tables.kept(report, applied=True)
    assert table.rows[0] == ("f", "t12:0", "float32[?,8]", "12.00", "why")
    assert table.rows[-1] == ("3 smaller ones", "", "", "3.00", "")
    rows = tables.kept(report, applied=True, detailed=True).rows
    assert rows[-1] == ("f", "t0:0", "float32[...]", "0.00", "why")
    assert len(rows) == 13


def test_markdown_shows_names_as_they_are():
    columns = (tables.Column("name", "name"), tables.Column("MiB", "number"))
    text = tables.markdown(tables.Table("title", columns, (("__call__|<a>\nb", "1.00"),)))
    assert text.splitlines() == [
        "**title**",
        "",
        "| name | MiB |",
        "| --- | ---: |",
        "| \\_\\_call\\_\\_\\|\\<a> b | 1.00 |",
    ]
