"""`swlottery report` on real runs, and on what is no run; the page in a real browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest

import odd
from lottery.runs import flags
from swlottery.cli import main
from swlottery.lottery import masks as masking
from swlottery.report.page.arms import Study
from swlottery.report.page.facts import collect
from swlottery.report.page.make import log_of
from swlottery.report.page.stored import StoredRun
from swlottery.report.page.verdict import RULE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one network runs at 20 %, at 10 % and at random from the same round 1, and a twin; of another one run."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    root = tmp_path_factory.mktemp("report")
    text = root / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice, {i % 7}." for i in range(200)))
    other = root / "other"
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config.from_pretrained(tiny_gpt2)).save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(other)

    def run(name: str, model: Path, **changes: object) -> Path:
        folder = root / "small" / name
        assert main(flags(model, text, root, **{"runs": folder} | changes)) == 0
        return next(path.parent for path in folder.glob("*/settings.json"))

    (root / "small" / "points").mkdir(parents=True)  # as a sweep leaves it: runs are then called by their points
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "swlottery.commands.train._draw", lambda *_: []
        )  # a report takes nothing from the figures of runs
        first = run("p20", tiny_gpt2)
        run("p10", tiny_gpt2, prune_rate=0.1, rounds=4, from_round_1=first)
        run("random", tiny_gpt2, criterion="random", from_round_1=first)
        run("twin", tiny_gpt2, data_seed=9, rounds=1)
        run("other", other)
    return root / "small"


@pytest.fixture(scope="module")
def reports(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports on all runs (a.html, its tables, and the same as Markdown), on p20 alone and on other alone."""
    folder = tmp_path_factory.mktemp("reports")
    assert main(["report", str(runs), "--out", str(folder / "a.html"), "--markdown", str(folder / "a.md")]) == 0
    for name in ("p20", "other"):
        assert main(["report", str(runs / name), "--out", str(folder / f"{name}.html")]) == 0
    return folder


def test_the_facts_are_those_of_the_files(runs: Path) -> None:
    facts = collect([runs])
    assert sorted(facts["runs"]["run"]) == ["small/other", "small/p10", "small/p20", "small/random", "small/twin"]
    assert set(facts["runs"]["state"]) == {"finished"}
    p20 = facts.folders["small/p20"]
    event = next(e for e in map(json.loads, (p20 / "metrics.jsonl").read_text().splitlines()) if e["event"] == "start")
    assert event["downs"] == [f"transformer.h.{n}.mlp.c_proj.weight" for n in (0, 1)] and event["in_out"]

    fixed = facts["fixed"][(facts["fixed"]["run"] == "small/p20") & (facts["fixed"]["round"] == 2)]
    mask = masking.load(p20 / "masks" / "round_2.safetensors")
    kept = [int(mask[name].sum()) for name in event["downs"]]
    assert fixed["matrix_kept"].tolist() == kept and fixed["drawn"].sum() == 1000
    flat = np.concatenate([mask[name].numpy().reshape(-1) for name in event["downs"]])
    drawn = np.random.default_rng(2024).choice(flat.size, 1000, replace=False)
    assert fixed["kept"].sum() == flat[drawn].sum(), "the same coordinates in every network"

    networks = dict(zip(facts["runs"]["run"], facts["runs"]["network"], strict=True))
    lineage = dict(zip(facts["runs"]["run"], facts["runs"]["lineage"], strict=True))
    assert networks["small/p20"] == networks["small/p10"] == networks["small/random"] != networks["small/twin"]
    assert lineage["small/p20"] == lineage["small/twin"] != lineage["small/other"]

    elsewhere = facts["elsewhere"]
    seen = elsewhere[(elsewhere["run"] == "small/other") & (elsewhere["round"] == 1)]
    assert len(seen) == 2, "of each network that another initialisation gave: of its round 1, and of its twin's"
    mask = masking.load(facts.folders["small/other"] / "masks" / "round_1.safetensors")
    for weight, alive in zip(seen["weight"], seen["alive"], strict=True):
        layer, out, in_ = json.loads("[" + weight.strip("()") + "]")
        assert bool(alive) == bool(mask[event["downs"][layer]][in_, out])

    rounds = facts["rounds"][facts["rounds"]["run"] == "small/p20"].set_index("round")
    events = [json.loads(line) for line in (p20 / "metrics.jsonl").read_text().splitlines()]
    begun = {one["round"] - 1: one["val_loss"] for one in events if one["event"] == "evaluation" and one["step"] == 0}
    assert rounds["start_loss"].to_dict() == pytest.approx(begun) and len(begun) == 3

    twins = facts["twins"]
    assert len(twins) == 1 and {twins["run"].iloc[0], twins["other"].iloc[0]} <= {
        f"small/{name}" for name in ("p20", "p10", "random", "twin")
    }
    random = facts["predicted"][facts["predicted"]["run"] == "small/random"]
    assert (random["auc_trained"] - 0.5).abs().max() < 0.05
    assert (
        facts["predicted"][(facts["predicted"]["run"] == "small/p20") & (facts["predicted"]["round"] == 1)][
            "auc_trained"
        ].iloc[0]
        > 0.95
    )


def test_the_rows_of_a_round_are_those_of_its_last_step(runs: Path) -> None:
    import csv

    facts = collect([runs])
    weights = facts["weights"][(facts["weights"]["run"] == "small/p20") & (facts["weights"]["round"] == 2)]
    with open(facts.folders["small/p20"] / "watch.csv", newline="") as file:
        watched = [
            row
            for row in csv.DictReader(file)
            if row["round"] == "2" and row["kind"] in ("leader", "super_weight", "control_rank")
        ]
    last = [row for row in watched if row["step"] == "6"]
    assert len(weights) == len(last) == 20
    assert weights["value"].tolist() == pytest.approx([float(row["value"]) for row in last], rel=1e-4)
    first = [
        row
        for row in watched
        if (row["layer"], row["out"], row["in"], row["kind"])
        == tuple(last[0][name] for name in ("layer", "out", "in", "kind"))
    ]
    seen = [float(row["update"]) for row in first if row["update"]]
    assert weights["update"].iloc[0] == pytest.approx(sum(seen) / len(seen), rel=1e-4), (
        "the mean over the round's evaluations"
    )


def test_one_page_that_names_what_is_no_run_and_escapes_what_runs_say(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_of_it = tmp_path / "runs"
    shutil.copytree(runs / "p20", all_of_it / "good")
    damaged = all_of_it / "damaged"
    shutil.copytree(runs / "other", damaged)
    (settings,) = damaged.glob("*/settings.json")
    history = settings.parent / "metrics.jsonl"
    history.write_text(history.read_text().replace('"event"', '"\x00event<script>alert(1)</script>', 1))
    settings.write_text(settings.read_text().replace("}", ', "oops": <img src=x onerror=alert(1)>}'))
    (all_of_it / "empty").mkdir()
    (all_of_it / "<b>foreign").mkdir()
    (all_of_it / "<b>foreign" / "holiday.txt").write_text("no run")
    broken = all_of_it / "half"
    shutil.copytree(runs / "random", broken)
    mask = next(broken.glob("*/masks/round_1.safetensors"))
    mask.write_bytes(mask.read_bytes()[:20])
    out = tmp_path / "pages" / "page.html"
    assert main(["report", str(all_of_it), "--out", str(out), "--markdown", str(tmp_path / "page.md")]) == 0
    assert f"wrote    {out}" in capsys.readouterr().out
    page = out.read_text()
    assert "Not readable, and left out: " in page
    short = re.search(r'<table class="summary".*?</table>', page, re.S)
    assert short is not None and re.search('<a href="#runs">What was run.</a>.*?<div>2 runs in 2 arms', short[0])
    assert re.search("[0-9]\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}[0-9]", page)
    linked = re.findall('<a href="#([^"]+)">', short[0])
    assert len(linked) > 4 and all(f'<section id="{name}"' in page for name in [*linked, "each-run"])
    assert page.count(RULE) == 1 and page.index(RULE) < page.index("<svg") < page.index("<section"), "what comes first"
    assert "\n| [What was run?](#what-was-run) | 2 runs in 2 arms" in (tmp_path / "page.md").read_text()
    for name in ("empty", "&lt;b&gt;foreign", settings.parent.name):
        assert name in page
    assert "its weights or masks are damaged" in page
    assert "<b>foreign" not in page and "<img" not in page and "<script>alert" not in page
    assert not re.search(r"(src|href)=['\"](?!#|data:text/csv)", page), "nothing is fetched"
    assert check(page) == []
    linked = set(re.findall(r"\]\((page/[^)]+)\)", (tmp_path / "page.md").read_text()))
    assert len(linked) > 10 and all((tmp_path / link).is_file() for link in linked)


@pytest.mark.parametrize(
    "name",
    ['<script>alert(1)</script>"><img src=x onerror=alert(1)>-->', "[a](javascript:alert(1))a|b\n# c"],
    ids=["HTML", "Markdown"],
)
def test_no_html_comes_from_the_text_of_runs(name: str, reports: Path, tmp_path: Path) -> None:
    """Names of runs, models, arms and messages: in the page, in Markdown, in figures and in the names of files."""
    tables = tmp_path / "a_tables"
    shutil.copytree(reports / "a_tables", tables)
    for path in tables.glob("*.csv"):
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        for column in table.columns.intersection(["run", "model", "message", "of", "other", "settings"]):
            if column == "settings":
                told = [json.loads(row) | {"model": name, "scope": name, "data": name} for row in table[column]]
                changed = [one | {"criterion": name} if one["criterion"] == "random" else one for one in told]
                table[column] = [json.dumps(one) for one in changed]
            elif column in ("model", "message"):
                table[column] = name
            else:
                table[column] = table[column].str.replace("small/", f"../{name}/")
        table.to_csv(path, index=False)
    out = tmp_path / "pages" / "page.html"
    assert main(["report", str(tables), "--out", str(out), "--markdown", str(tmp_path / "pages" / "page.md")]) == 0
    page, plain = out.read_text(), (out.parent / "page.md").read_text()
    assert escape(name, quote=False) in page.replace("&#34;", '"'), "it is there, as text"
    assert page.count("<script") == 1 and "<img" not in page and check(page) == []
    assert not re.search("<(?!br>)[a-z/!]", plain) and "](javascript" not in plain
    lines = plain.splitlines()
    assert sum(line.startswith("# ") for line in lines) == 1
    for start, line in enumerate(lines):
        if line.startswith("|---"):
            assert len(set(map(columns, lines[start - 1 : lines.index("", start)]))) == 1, "every row has its cells"
    for path in (out.parent / "page").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert not [one for one in root.iter() if one.tag.rpartition("}")[2] in ("script", "img", "a", "foreignObject")]
    there = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[a-z_]+\.(csv|svg|html|md)", name) for name in there)
    assert {path.name for path in tmp_path.iterdir()} == {"a_tables", "pages"}


def columns(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row))


def test_a_report_on_its_own_tables_is_the_same(reports: Path, tmp_path: Path) -> None:
    again = [
        "report",
        str(reports / "a_tables"),
        "--out",
        str(tmp_path / "b.html"),
        "--markdown",
        str(tmp_path / "b.md"),
    ]
    assert main(again) == 0
    files = sorted(path.name for path in (reports / "a_tables").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b_tables").iterdir())
    for name in files:
        assert (reports / "a_tables" / name).read_text() == (tmp_path / "b_tables" / name).read_text(), name
    assert (reports / "a.md").read_text().replace("(a/", "(b/") == (tmp_path / "b.md").read_text()


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [("rounds.csv", "round,", "round,more,"), ("rounds.csv", "total,", ""), ("watch.csv", ",value", "")],
)
def test_a_row_with_more_or_fewer_cells_than_the_first_line_has_names(
    runs: Path, tmp_path: Path, file: str, before: str, after: str
) -> None:
    shutil.copytree(runs / "twin", tmp_path / "twin")
    (table,) = tmp_path.glob(f"*/*/{file}")
    (table.parent / "SHA256SUMS").unlink()
    head, *rest = table.read_text().splitlines(keepends=True)
    assert before in head
    table.write_text("".join([head.replace(before, after, 1), *rest]))
    (row,) = collect([tmp_path]).tables["runs"].to_dict("records")
    assert row["state"] == "damaged" and f"{file}: a row has not as many cells" in row["message"]


@pytest.mark.parametrize("value", ['"x"', '"nan"', "[1]", "true", "9" * 30])
def test_what_is_no_number_in_a_history(runs: Path, tmp_path: Path, value: str) -> None:
    shutil.copytree(runs / "twin", tmp_path / "twin")
    (history,) = tmp_path.glob("*/*/metrics.jsonl")
    (history.parent / "SHA256SUMS").unlink()
    history.write_text(re.sub(r'("val_loss": )[^,}]+', rf"\g<1>{value}", history.read_text(), count=1))
    (row,) = collect([tmp_path]).tables["runs"].to_dict("records")
    assert row["state"] == "damaged" and "ValueError" in row["message"]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("runs", "settings", "{"),
        ("runs", "settings", "[]"),
        ("rounds", "val_loss", "x"),
        ("weights", "alive", "x"),
        ("rounds", "x", ",".join("x" * 200_000)),
    ],
)
def test_damaged_tables_get_one_line(
    reports: Path, tmp_path: Path, table: str, column: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = tmp_path / "tables"
    shutil.copytree(reports / "p20_tables", tables)
    content = pandas.read_csv(tables / f"{table}.csv", dtype=str, keep_default_na=False)
    content.loc[0, column] = value
    content.to_csv(tables / f"{table}.csv", index=False)
    assert main(["report", str(tables), "--out", str(tmp_path / "page.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tables) in line and len(line) < 2100
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_tables_of_two_reports_are_put_together_and_no_run_counts_twice(runs: Path, reports: Path) -> None:
    both = collect([reports / "p20_tables", reports / "other_tables", runs / "p20", runs / "p20"])
    assert sorted(both["runs"]["run"]) == ["small/other", "small/p20"]
    assert len(both["rounds"]) == 6


def test_weights_of_stored_tables_are_looked_up_in_new_runs_too(runs: Path, reports: Path) -> None:
    whole, parts = collect([runs / "other", runs / "p20"]), collect([reports / "other_tables", runs / "p20"])
    columns = ["round", "weight", "of", "alive", "matrix_keep_rate"]
    seen, again = (
        facts["elsewhere"][facts["elsewhere"]["run"] == "small/p20"][columns].values.tolist()
        for facts in (whole, parts)
    )
    assert seen == again and len(seen) == 2 and {row[2] for row in seen} == {"small/other"}


def test_the_page_begins_with_the_verdicts_of_the_finder(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs / "twin", tmp_path / "twin")
    (round_1,) = (tmp_path / "twin").glob("*/round_1")
    final = round_1.parent / "final"
    for folder in (round_1, final):
        looked = odd.find(folder, "--out", str(folder / "record.json"), "--plots", "plots")
        assert looked.code == 0, looked
    assert main(["report", "twin", "--out", "page.html", "--markdown", "page.md"]) == 0
    line = "No network here has a super weight: what is tracked is the leader of each; the finder's verdicts on 1 of "
    assert (tmp_path / "page.md").read_text().splitlines()[2] == f"{line}them: nothing found in 1."
    assert line in (tmp_path / "page.html").read_text().replace("&#39;", "'")
    records = collect([tmp_path / "twin"]).tables["records"]
    assert list(records["of"]) == ["round_1", "final"] and set(records["verdict"]) == {""}
    for folder in (final, round_1):
        odd.change(folder / "record.json", weights_sha256="0" * 64)
        (row,) = collect([tmp_path / "twin"]).tables["runs"].to_dict("records")
        assert row["state"] == "damaged" and f"record.json is of another network than {folder.name}/" in row["message"]


def test_settings_that_came_after_a_table_was_stored_are_at_their_defaults(runs: Path, tmp_path: Path) -> None:
    stored = collect([runs / "twin"])
    (row,) = [json.loads(one) for one in stored["runs"]["settings"]]
    left = {name: value for name, value in row.items() if name not in ("beta1", "trace")}
    stored.tables["runs"] = stored["runs"].assign(settings=json.dumps(left))
    stored.write(tmp_path / "tables")
    assert Study(stored).settings == {"small/twin": row}
    assert len(collect([tmp_path / "tables", runs / "twin"])["runs"]) == 1, "one run, and not two"


def test_other_runs_of_the_same_name_are_others(runs: Path, reports: Path, tmp_path: Path) -> None:
    """Two studies may have one name, and points of one name."""
    second = tmp_path / "elsewhere" / "small"
    (second / "points").mkdir(parents=True)
    shutil.copytree(runs / "other", second / "p20")
    both = collect([reports / "p20_tables", second])
    assert sorted(both["runs"]["run"]) == ["small/p20", "small/p20 (2)"]
    lineage = dict(zip(both["runs"]["run"], both["runs"]["lineage"], strict=True))
    assert len(set(lineage.values())) == 2
    assert set(both["weights"]["run"]) == set(lineage) and len(both["rounds"]) == 6
    folders = collect([runs / "p20", second])
    assert sorted(folders["runs"]["run"]) == ["small/p20", "small/p20 (2)"]


def test_a_run_that_has_pruned_and_follows_nothing_is_no_mistake(runs: Path, tmp_path: Path) -> None:
    """Its mask is there before rounds.csv says a word of it."""
    going = tmp_path / "going"
    shutil.copytree(next((runs / "p20").glob("*/")), going)
    history = (going / "metrics.jsonl").read_text().splitlines()
    cut = next(n for n, line in enumerate(history) if '"event": "prune"' in line)
    (going / "metrics.jsonl").write_text("\n".join(history[: cut + 1]) + "\n")
    (going / "rounds.csv").write_text("\n".join((going / "rounds.csv").read_text().splitlines()[:2]) + "\n")
    for name in ("watch.csv", "SHA256SUMS"):
        (going / name).unlink()
    (going / "status.json").write_text('{"state": "running"}')
    facts = collect([going])
    assert facts["rounds"]["round"].tolist() == [0, 1] and facts["rounds"]["remaining_fraction"].iloc[1] < 0.81
    assert main(["report", str(going), "--out", str(tmp_path / "page.html")]) == 0


def test_the_log_is_told_again_from_the_history(runs: Path) -> None:
    text = log_of(next((runs / "p20").glob("*/")))
    assert "2 rounds of train, prune, rewind" in text and "What became of" in text


def test_only_masks_that_are_there_are_looked_for(runs: Path, tmp_path: Path) -> None:
    """A history that says a billion prunes is damaged, but takes no time."""
    whole = next((runs / "p20").glob("*/"))
    run = tmp_path / whole.name
    shutil.copytree(whole, run)
    first, *rest = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([json.dumps({**json.loads(first), "prunes": 10**12}), *rest]))
    stored = StoredRun(run)
    assert [number for number, _ in stored.masks()] == [number for number, _ in StoredRun(whole).masks()] != []


@pytest.mark.parametrize("given", [["nowhere"], []])
def test_no_run_at_all_is_one_line(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a file").write_text("")
    assert main(["report", *(given or [str(tmp_path / "a file")]), "--out", str(tmp_path / "out.html")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_an_empty_folder_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out.html")]) == 2
    assert "no run in" in capsys.readouterr().err and not list(tmp_path.glob("out*"))


def check(page: str) -> list[str]:
    """What is wrong with the page's tags and ids, and with what a screen reader needs."""
    void = {"meta", "br", "path", "rect", "use", "circle", "line", "stop"}
    wrong: list[str] = []
    stack: list[str] = []
    ids: list[str] = []
    headings: list[int] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            named = dict(attributes)
            ids.extend([str(named["id"])] if "id" in named else [])
            headings.extend([int(tag[1])] if re.fullmatch("h[1-6]", tag) else [])
            if tag == "svg" and (named.get("role") != "img" or not named.get("aria-label")):
                wrong.append("a figure without a text that stands for it")
            if tag not in void:
                stack.append(tag)

        def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            ids.extend([str(value) for name, value in attributes if name == "id"])

        def handle_endtag(self, tag: str) -> None:
            if tag in void:
                return
            if not stack or stack.pop() != tag:
                wrong.append(f"</{tag}> closes another")

    Reader().feed(page)
    wrong += [f"<{tag}> is not closed" for tag in stack]
    wrong += [f"two elements are called {name}" for name in sorted({name for name in ids if ids.count(name) > 1})]
    wrong += [] if headings and headings[0] == 1 and headings.count(1) == 1 else ["one h1 has to come first"]
    return wrong


HARNESS = """
<script>
var errors = [];
window.addEventListener('error', function (event) { errors.push(event.message); });
document.addEventListener('securitypolicyviolation', function (event) { errors.push('refused: ' + event.blockedURI); });
</script>
"""
SORT = """
<script>
window.addEventListener('load', function () {
  const tables = Array.from(document.querySelectorAll('table')), seen = {};
  const table = tables.find(function (one) { return one.closest('#perplexity'); });
  const heads = Array.from(table.tHead.rows[0].cells);
  const column = heads.findIndex(function (head) { return head.textContent === 'perplexity'; });
  const button = heads[column].querySelector('button'), all = document.querySelectorAll('th button');
  all.forEach(function (one) { one.click(); one.click(); });
  seen.heads = all.length;
  function values() {
    return Array.from(table.tBodies[0].rows).map(function (row) { return Number(row.cells[column].dataset.value); });
  }
  if (table.closest('details')) { table.closest('details').open = true; }
  button.focus();
  button.click();
  seen.up = values();
  seen.sorted = heads[column].getAttribute('aria-sort');
  button.click();
  seen.down = values();
  seen.focused = document.activeElement === button;
  seen.errors = errors;
  seen.fetched = performance.getEntriesByType('resource').map(function (entry) { return entry.name; });
  seen.wide = document.documentElement.scrollWidth > window.innerWidth;
  document.title = 'seen';
  document.body.innerHTML = '<pre id=seen>' + JSON.stringify(seen) + '</pre>';
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_sorts_a_table_fetches_nothing_and_has_no_error(reports: Path, tmp_path: Path, width: int) -> None:
    page = (reports / "a.html").read_text()
    tested = tmp_path / "tested.html"
    tested.write_text(page.replace("</title>", "</title>" + HARNESS, 1).replace("</body>", SORT + "</body>", 1))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    found = subprocess.run(
        [str(CHROMIUM), *options, "--virtual-time-budget=10000", "--dump-dom", tested.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    answer = re.search(r'<pre id="seen">(.*?)</pre>', found.stdout, re.S)
    assert answer, found.stderr[-2000:]
    seen = json.loads(answer[1])
    assert seen["errors"] == [] and seen["fetched"] == [] and seen["heads"] > 100, "every table sorts by every column"
    assert seen["up"] == sorted(seen["up"]) and seen["down"] == seen["up"][::-1] and len(set(seen["up"])) > 3
    assert seen["sorted"] == "ascending" and seen["focused"]
    assert not seen["wide"], "the page is wider than the window"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["results", "results-kept", "results-smollm2", "results-t300"])
def test_the_results_in_the_repository_are_what_their_tables_say(name: str, tmp_path: Path) -> None:
    """Every number of the page, to the digits that it shows, comes from the CSV files beside it."""
    docs = Path(__file__).resolve().parents[3] / "docs"
    made = tmp_path / f"{name}.md"
    assert main(["report", str(docs / name), "--out", str(tmp_path / "page.html"), "--markdown", str(made)]) == 0
    assert made.read_text(encoding="utf-8") == (docs / f"{name}.md").read_text(encoding="utf-8")
