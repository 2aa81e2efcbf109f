"""The report and the comparison of records, on made-up records with known ratios and ranges."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.compare import differences
from bench.compare import main as compare
from bench.harness import Record, Row, load, median, save, spread_of, unreliable
from bench.machine import Machine
from bench.machines import machines_of, plots_of_machines
from bench.plots import frontier, plots_of, svg
from bench.report import BEGIN, END, by_machine, page, results_in, summary, with_summary
from bench.report import main as report
from bench.tables import cell, markdown, safe

MACHINE = Machine(cpu="AMD EPYC 7B13", cores=2, instructions="avx2", memory_gb=8.0)
BASELINE = Row(
    name="reference baseline", unit="windows/s", samples=(1.0, 2.0, 1.0, 1.0, 1.0),
    labels={"backend": "pytorch", "precision": "fp32", "batch": 1, "way": "eager"},
)  # fmt: skip


def made(*rows: Row, bench: str = "engines", **fields: Any) -> Record:
    known: dict[str, Any] = {
        "settings": {},
        "machine": MACHINE,
        "versions": {"python": "3.11.7"},
        "commit": "abc1234",
    }
    return Record(bench=bench, rows=rows, **{**known, "taken": "2026-01-02", **fields})


def engine(batch: int, speed: float, **figures: Any) -> Row:
    return Row(
        name=f"openvino fp32, batch {batch}",
        unit="windows/s",
        samples=tuple(speed * sample for sample in BASELINE.samples),
        labels={"backend": "openvino", "precision": "fp32", "batch": batch},
        figures=figures,
    )


def scene(way: str, side: int, *samples: float, base: str | None = None, **figures: Any) -> Row:
    labels = {"way": way, "width": side, "height": side, **({"base": base} if base else {})}
    return Row(name=f"{way}, {side}", unit="Mpx/s", samples=samples, labels=labels, figures=figures)


def lines_of(table: str) -> dict[str, list[str]]:
    """Return a Markdown table's cells by the first cell of their line."""
    cells = [line.strip("| ").split(" | ") for line in table.replace("| |", "| - |").splitlines()]
    return {first: rest for first, *rest in cells}


NOISY = replace(
    BASELINE, name="noisy", samples=(1.0, 3.0, 3.0, 1.0, 1.0), figures={"memory_mb": 123.4, "load_s": 7.0}
)
BROKEN = replace(engine(8, 4.0, memory_mb=500.0), name="broken", trouble="20 dB | at least <40> required")
ENGINES = made(
    BASELINE,
    engine(1, 2.0, psnr_db=128.4, latency_ms={"median": 12.5, "p99": 14.0}, share_of_matmul=0.514),
    engine(4, 2.5, psnr_db=128.4),
    NOISY,
    BROKEN,
    Row(name="left out", unit="windows/s", trouble="no such library"),
    settings={"rounds": 5, "generator": {"base_channels": 64}, "ceiling_windows_per_s": {"fp32": 6.0}},
    ceilings={"fp32 matmul, TFLOP/s": 0.32},
)
SCENES = made(
    *(
        row
        for side in (2048, 8192)
        for row in (
            scene("engine only", side, 8.0, 8.0, 8.0, base=f"engine only, {side}"),
            scene("ours", side, 6.0, 6.0, 6.0, base=f"engine only, {side}", idle={"read": 0.9, "infer": 0.05}),
            scene("reference baseline", side, 0.5, 0.5, 0.5, base=f"engine only, {side}"),
        )
    ),
    bench="scene",
    series={"memory": {"ours, 8192": [[0.0, 100.0], [1.0, 140.0]]}, "growth_exponent": {"ours": 1.02}},
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    save(ENGINES, folder / "epyc-avx2-engines.json")
    save(SCENES, folder / "epyc-avx2-scene.json")
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip drawing, which takes time, in tests of the page."""
    monkeypatch.setattr("bench.report.svg", lambda plot: b"<svg/>")


def run(command: Any, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def run_report(results: Path, *more: object) -> tuple[int, str]:
    return run(
        report, "--results", results, "--out", results.parent / "README.md", "--readme", results / "none", *more
    )


# records


def test_a_ratio_is_the_median_of_its_rounds_and_its_spread_their_quartiles():
    base = Row(name="base", unit="x/s", samples=(1.0, 2.0, 1.0, 1.0, 1.0))
    slow = Row(name="slow", unit="x/s", samples=(2.0, 6.0, 2.2, 1.8, 2.0))  # ratios 1.8, 2.0, 2.0, 2.2, 3.0
    found = made(base, slow).ratios(slow)
    assert median(found) == 2.0
    assert spread_of(found) == pytest.approx((2.2 - 2.0) / 2.0)
    assert spread_of((2.0, 3.0, 2.2)) == pytest.approx(1 / 2.2)


def test_fewer_than_three_rounds_give_no_figure():
    row = Row(name="a", unit="x/s", samples=(2.0, 2.0))
    assert made(row).unreliable_rate(row) == made(row).unreliable_ratio(row) == "2 of at least 3 rounds"
    assert made(replace(row, samples=(2.0,) * 3)).unreliable_rate(replace(row, samples=(2.0,) * 3)) is None


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ((2.7, 3.9, 4.4), "3.9 (2.7 to 4.4)"),
        ((270.0, 390.0, 440.0), "390 (270 to 440)"),
        ((0.9, 1.07, 1.2), "1.07 (0.90 to 1.20)"),
        ((0.027, 0.039, 0.044), "0.039 (0.027 to 0.044)"),
        ((3.8, 3.9, 4.0), None),
    ],
)
def test_a_median_that_varies_has_its_range(samples, text):
    assert unreliable(samples) == text


def test_a_record_that_was_saved_is_the_same_when_loaded(tmp_path):
    for record in (ENGINES, SCENES):
        save(record, tmp_path / "record.json")
        assert load(tmp_path / "record.json") == record


def test_a_row_is_compared_with_its_own_base():
    ours = next(row for row in SCENES.rows if row.name == "ours, 8192")
    assert SCENES.ratios(ours) == (0.75, 0.75, 0.75)


def test_names_in_older_records_are_replaced(tmp_path):
    save(made(replace(BASELINE, name="the seed's way, fp32")), tmp_path / "a.json")
    assert load(tmp_path / "a.json").rows[0].name == "reference baseline, fp32"


def test_a_row_whose_base_is_not_there_has_no_ratio():
    lines = lines_of(markdown(made(scene("ours", 10, 1.0, 1.0, 1.0, base="gone"), bench="scene")))
    assert lines["ours, 10"] == ["1", "not measured", "gone"]


# tables


def test_a_table_has_rates_ratios_and_the_figures_that_there_are():
    table = markdown(ENGINES)
    head, rule, *_ = table.splitlines()
    assert head.startswith("|  | windows/s | ratio to the first row | latency, ms (median / p99)")
    assert "threads" not in head
    assert "SSIM" not in head
    assert len(rule.split("|")) == len(head.split("|"))
    lines = lines_of(table)
    assert lines["reference baseline"][:2] == ["1", "1.00"]
    assert lines["openvino fp32, batch 1"][:4] == ["2", "2.00", "12.5 / 14", "-"]
    assert lines["openvino fp32, batch 1"][-2:] == ["128", "51%"]


def test_a_row_that_varies_has_ranges_and_no_timings():
    lines = lines_of(markdown(ENGINES))
    assert lines["noisy"][:2] == ["1.00 (1.00 to 3.00)", "1.00 (1.00 to 3.00)"]
    assert "7" not in lines["noisy"]  # seconds are as unreliable as the rate
    assert "123" in lines["noisy"]  # memory is reliable
    assert lines["broken"] == ["20 dB \\| at least &lt;40> required", *"-" * 6]
    assert lines["left out"] == ["no such library"] + ["-"] * 6


def test_a_table_with_bases_names_them():
    table = markdown(SCENES)
    assert "| Mpx/s | ratio | compared with | idle (read / infer) |" in table
    assert lines_of(table)["ours, 8192"] == ["6", "0.75", "engine only, 8192", "90% / 5%"]


def test_a_bench_without_a_list_of_columns_shows_all():
    row = Row(
        name="a", unit="x/s", samples=(3.0,) * 3, labels={"kind": 7}, figures={"seam_score": 1.0584, "good": True}
    )
    assert markdown(made(row, bench="new")) == (
        "|  | kind | x/s | ratio to the first row | seam score | good |\n"
        "| --- | --- | --: | --: | --: | --: |\n"
        "| a | 7 | 3 | 1.00 | 1.058 | yes |\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        (0, "0"),
        (False, "no"),
        (8.0, "8"),
        (1234.6, "1235"),
        (0.0123, "0.0123"),
        (float("inf"), "inf"),
    ],
)
def test_a_cell(value, text):
    assert cell(value) == text


def test_the_text_of_an_error_stays_in_its_cell():
    assert safe("a\nb | <c>") == "a b \\| &lt;c>"


# the page and its plots


def test_the_page_has_a_section_for_each_machine_and_its_plots(results):
    gpu = replace(MACHINE, gpu="NVIDIA H100 80GB HBM3, driver 570")
    save(replace(ENGINES, machine=gpu), results / "h100-engines.json")
    save(replace(ENGINES, taken="2026-01-03"), results / "epyc-avx2-engines-again.json")
    text = page(results_in(results), "results")
    heads = [line for line in text.splitlines() if line.startswith("##")]
    assert heads == [
        "## Which machine", "## How it is measured",
        "## epyc-avx2", "### engines", "### engines (epyc-avx2-engines-again)", "### scene", "## h100", "### engines",
    ]  # fmt: skip
    assert "- engines, scene: AMD EPYC 7B13, 2 cores, avx2, 8 GB; python 3.11.7; commit abc1234, 2026-01-02\n" in text
    assert "Settings: rounds 5; generator: base channels 64; ceiling windows per s: fp32 6.\n" in text
    assert "Ceilings: fp32 matmul, TFLOP/s 0.32.\n" in text
    assert "to the power of: ours 1.02.\n" in text
    assert "(results/epyc-avx2-scene-memory.svg)" in text
    # 417.5 Mpx at 6 Mpx/s; 2.5 windows/s is the highest reliable rate; no record of training.
    assert "| AMD EPYC 7B13, 2 cores | 70 s | 8192 x 8192 | 2.5 | openvino fp32, batch 4 | - |" in text
    assert sorted(plots_of_machines(machines_of(list(by_machine(results_in(results)).values())))) == [
        "machines-scene.svg", "machines-training.svg", "machines-windows.svg",
    ]  # fmt: skip


def test_results_over_several_rows_are_listed(tmp_path):
    save(made(BASELINE, bench="peers", series={"verdicts": {"over the best peer": 1.234}}), tmp_path / "a.json")
    assert "\n- over the best peer: 1.234\n" in page(results_in(tmp_path), "results")


def test_a_second_run_changes_no_byte(results):
    code, output = run_report(results)
    assert (code, output) == (0, f"{results.parent / 'README.md'}: 2 records, 4 plots\n")
    made_files = [results.parent / "README.md", *sorted(results.glob("*.svg"))]
    assert [path.name for path in made_files[1:]] == [
        "epyc-avx2-engines-frontier.svg",
        "epyc-avx2-engines-throughput.svg",
        "epyc-avx2-scene-area.svg",
        "epyc-avx2-scene-memory.svg",
    ]
    first = [path.read_bytes() for path in made_files]
    assert run_report(results)[0] == 0
    assert [path.read_bytes() for path in made_files] == first


@pytest.mark.usefixtures("undrawn")
def test_check_fails_if_the_page_is_out_of_date(results):
    code, output = run_report(results, "--check")
    assert code == 1
    assert output == f"Error: {results.parent / 'README.md'} is out of date: run python -m bench report\n"
    assert list(results.glob("*.svg")) == []
    run_report(results)
    assert run_report(results, "--check") == (0, "")
    save(replace(SCENES, commit="abc1235"), results / "epyc-avx2-scene.json")
    assert run_report(results, "--check")[0] == 1


@pytest.mark.usefixtures("undrawn")
def test_check_names_a_missing_plot(results):
    run_report(results)
    (results / "epyc-avx2-scene-area.svg").unlink()
    code, output = run_report(results, "--check")
    assert code == 1
    assert "epyc-avx2-scene-area.svg is out of date" in output


@pytest.mark.usefixtures("undrawn")
def test_plots_without_a_record_are_named(results):
    (results / "gone-area.svg").write_text("")
    code, output = run_report(results)
    assert code == 0
    assert "gone-area.svg: belongs to no record" in output


@pytest.mark.parametrize(
    "content", ["no JSON", '{"rows": []}', '{"bench": "engines", "figures": {}}', '{"rows": [{"samples": []}]}', "7"]
)
def test_a_file_that_is_not_a_record_is_named(content, results):
    (results / "junk.json").write_text(content)
    code, output = run_report(results)
    assert code == 2
    assert len(output.splitlines()) == 1
    assert "junk.json is not a record of a bench" in output


def test_a_page_without_records_has_the_commands(tmp_path):
    assert "python -m bench engines" in page(results_in(tmp_path), "results")


def test_plots_leave_out_unreliable_rates():
    drawn = {plot.name: svg(plot).decode() for plot in plots_of(ENGINES)}
    assert "openvino fp32" in drawn["throughput"]
    assert "ceiling, fp32" in drawn["throughput"]
    assert plots_of(made(BASELINE, BROKEN, bench="training")) == []
    assert "noisy" not in "".join(drawn.values())
    assert plots_of(made(replace(BASELINE, trouble="another image"))) == []


def test_the_frontier_has_the_pareto_optimal_points():
    assert frontier([(40.0, 9.0), (128.0, 4.0), (40.0, 3.0), (100.0, 4.0), (50.0, 9.0)]) == [
        (50.0, 9.0),
        (128.0, 4.0),
    ]


# the summary of the main README


def test_the_summary_gives_the_fastest_engine_and_the_largest_scene(results):
    assert summary(results_in(results)).splitlines()[4:] == [
        "| epyc-avx2 | openvino fp32, batch 4 | 2.5 | 2.50 | 8192 x 8192 | 6 | 12.00 |"
    ]


@pytest.mark.usefixtures("undrawn")
def test_the_summary_goes_between_the_markers_and_nowhere_else(results, tmp_path):
    readme = tmp_path / "MAIN.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert run_report(results, "--readme", readme)[0] == 0
    text = readme.read_text()
    assert text == f"before\n{BEGIN}\n{summary(results_in(results))}{END}\nafter\n"
    assert run_report(results, "--readme", readme, "--check")[0] == 0
    readme.write_text(text.replace("8192", "9999"))
    assert run_report(results, "--readme", readme, "--check")[0] == 1


@pytest.mark.parametrize("text", ["no markers\n", f"{BEGIN} but no end\n", f"{END} {BEGIN}"])
def test_a_page_without_markers_stays_unchanged(text, results):
    assert with_summary(text, results_in(results)) == text


# two records


def files(tmp_path: Path, a: Record, b: Record) -> tuple[Path, Path]:
    save(a, tmp_path / "a.json")
    save(b, tmp_path / "b.json")
    return tmp_path / "a.json", tmp_path / "b.json"


def faster(record: Record, name: str, by: float) -> Record:
    rows = (replace(r, samples=tuple(by * s for s in r.samples)) if r.name == name else r for r in record.rows)
    return replace(record, rows=tuple(rows))


def test_differences_are_of_ratios_to_the_same_base():
    found = {row.name: row for row in differences(SCENES, faster(SCENES, "ours, 8192", 0.5))}
    assert (found["ours, 8192"].a, found["ours, 8192"].b, found["ours, 8192"].relative) == (0.75, 0.375, -0.5)
    assert found["ours, 2048"].relative == 0
    assert "engine only, 2048" not in found  # compared with itself
    slower_machine = replace(
        SCENES, rows=tuple(replace(r, samples=tuple(s / 3 for s in r.samples)) for r in SCENES.rows)
    )
    assert max(abs(row.relative) for row in differences(SCENES, slower_machine)) < 1e-9


def test_unreliable_rows_are_not_compared():
    found = {row.name: row for row in differences(ENGINES, faster(ENGINES, "noisy", 9.0))}
    assert found["noisy"].reason == "A: 1.00 (1.00 to 3.00); B: 9.0 (9.0 to 27.0)"
    assert found["broken"].reason.startswith("A: 20 dB")
    assert found["noisy"].relative == 0
    assert "left out" not in found


def test_other_bases_are_not_compared():
    other = made(replace(BASELINE, name="another"), *ENGINES.rows[1:])
    assert differences(ENGINES, other)[0].reason == "compared with reference baseline in A, with another in B"


@pytest.mark.parametrize(
    ("by", "code", "limit"), [(1.09, 0, "within 10%"), (0.85, 1, "more than 10%"), (1.2, 1, "more than 10%")]
)
def test_compare_fails_where_a_ratio_differs_by_more(by, code, limit, tmp_path):
    paths = files(tmp_path, ENGINES, faster(ENGINES, "openvino fp32, batch 4", by))
    found, text = run(compare, *paths)
    *_, last = text.splitlines()
    assert found == code
    assert last == f"largest difference: {by - 1:+.1%} (openvino fp32, batch 4), {limit}"
    assert "not compared: A: 1.00 (1.00 to 3.00)" in text
    assert run(compare, *paths, "--within", "0.25")[0] == 0


def test_compare_fails_without_common_or_reliable_rows(tmp_path):
    assert run(compare, *files(tmp_path, made(BASELINE), made(BASELINE)))[0] == 2
    code, text = run(compare, *files(tmp_path, made(BASELINE, NOISY), made(BASELINE, BROKEN)))
    assert (code, len([line for line in text.splitlines() if line.startswith("Error")])) == (2, 1)
    assert "no row except the base row was measured in both" in text
    code, text = run(compare, *files(tmp_path, made(BASELINE, NOISY), made(BASELINE, NOISY)))
    assert code == 2
    assert "no row is reliable in both" in text
    code, text = run(compare, *files(tmp_path, ENGINES, SCENES))
    assert code == 2
    assert len(text.splitlines()) == 1


def test_compare_prints_what_else_differs(tmp_path):
    other = replace(ENGINES, rows=ENGINES.rows[:2], settings={**ENGINES.settings, "rounds": 3})
    _, text = run(compare, *files(tmp_path, ENGINES, replace(other, machine=replace(MACHINE, instructions="avx512"))))
    assert "different machines: A epyc-avx2, B epyc-avx512" in text
    assert "rounds is 5 in A, 3 in B" in text
    assert "measured in one record only: broken, noisy, openvino fp32, batch 4" in text


def test_compare_refuses_files_that_are_not_records(tmp_path):
    save(ENGINES, tmp_path / "a.json")
    (tmp_path / "old.json").write_text('{"bench": "engines"}')
    for name in ("old.json", "none.json"):
        code, text = run(compare, tmp_path / "a.json", tmp_path / name)
        assert (code, len(text.splitlines())) == (2, 1)
        assert f"{name} is not a record" in text


def test_a_record_is_plain_json(tmp_path):
    save(ENGINES, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["samples"] == list(asdict(BASELINE)["samples"])
