"""A lottery whose every mask is written out: one block of width 2 whose weights are 1 … 20 hundredths.

With learning rate 0 the weights stay what they are, so the masks follow from the numbers alone: of 20 weights a rate of
0.2 takes floor(4), floor(3.2), floor(2.6) of 20, 16, 13.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from lottery.runs import DRAW, events, flags, only_run, table
from swlottery.cli import main
from swlottery.lottery import masks as masking

ATTN, PROJ, DOWN = (f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_proj"))

# As they are stored: [in, out]. The signs must not matter, nor the tensor that a weight stands in.
WEIGHTS = {
    ATTN: [[0.01, -0.05, 0.09, 0.13, -0.17, 0.20], [0.02, 0.06, -0.10, 0.14, 0.18, 0.04]],
    PROJ: [[-0.03, 0.07], [0.11, 0.15]],
    DOWN: [[0.19, 0.08], [-0.12, 0.16]],
}
MASKS = [
    {ATTN: [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], PROJ: [[1, 1], [1, 1]], DOWN: [[1, 1], [1, 1]]},
    # 1, 2, 3, 4 are gone
    {ATTN: [[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]], PROJ: [[0, 1], [1, 1]], DOWN: [[1, 1], [1, 1]]},
    # 5, 6, 7
    {ATTN: [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0]], PROJ: [[0, 0], [1, 1]], DOWN: [[1, 1], [1, 1]]},
    # 8, 9: the weight of the down-projection at (out 1, in 0), stored at [0, 1], goes in round 3
    {ATTN: [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0]], PROJ: [[0, 0], [1, 1]], DOWN: [[1, 0], [1, 1]]},
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Path:
    """The model, with the tokenizer of the other tiny one."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=257, n_positions=64, n_embd=2, n_layer=1, n_head=1, n_inner=2))
    with torch.no_grad():
        for name, values in WEIGHTS.items():
            model.get_parameter(name).copy_(torch.tensor(values))
    folder = tmp_path_factory.mktemp("small")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(folder)
    return folder


@pytest.fixture
def run(small: Path, text: Path, tmp_path: Path):
    """Run the lottery with learning rate 0, following (0, 1, 0); returns the run's folder."""

    def go(*more: str, **changes: object) -> Path:
        settings = {"lr": 0, "steps": 2, "eval_steps": 1, "rounds": 3, "super_weights": "none", "follow": "0,1,0"}
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        assert main(flags(small, text, place, *more, **{**settings, **changes})) == 0
        return only_run(place)

    return go


def stored(run: Path, number: int) -> dict[str, list[list[int]]]:
    return {
        name: mask.int().tolist() for name, mask in masking.load(run / "masks" / f"round_{number}.safetensors").items()
    }


def test_the_mask_of_every_round(run):
    folder = run()
    assert [stored(folder, number) for number in range(4)] == MASKS
    rows = table(folder, "rounds.csv")
    assert [row["remaining"] for row in rows] == ["20", "16", "13", "11"]
    assert [row["pruned"] for row in rows] == ["", "4", "3", "2"]
    assert [float(row["threshold"] or 0) for row in rows] == pytest.approx([0, 0.04, 0.07, 0.09])
    assert [float(row["sparsity"]) for row in rows] == pytest.approx([0, 0.2, 0.35, 0.45])


def test_survival_is_reported_in_the_round_that_decided_it(run):
    """The weight (0, 1, 0), 0.08, goes with prune 3; not a round late, as from the old mask."""
    folder = run()
    followed = [row for row in table(folder, "watch.csv") if row["kind"] == "foreign"]
    last = {row["round"]: row["alive"] for row in followed if row["step"] == "2"}
    assert last == {"1": "1", "2": "1", "3": "0", "4": "0"}
    assert [row["alive"] for row in followed if row["round"] == "3"] == ["1", "1", "0"], "until then by the old mask"
    (fate,) = events(folder, "finished")[0]["weights"]
    assert (fate["pruned_in"], fate["sparsity"]) == (3, pytest.approx(0.45))
    assert fate["matrix_keep_rate"] == 3 / 4
    (weight,) = events(folder, "prune")[2]["weights"]
    assert weight["over_threshold"] == pytest.approx(0.08 / 0.09)


def test_layers_ranked_alone_give_each_its_share(run, monkeypatch):
    """floor(0.2 · 20) = 4 of 12, 4, 4: shares 2.4, 0.8, 0.8, so 2, 1, 1 by largest remainder."""
    monkeypatch.setattr(
        "swlottery.commands.train._draw", DRAW
    )  # figures take the thresholds of layers from another file
    folder = run(rounds=1, criterion="layer-magnitude")
    assert stored(folder, 1) == {
        ATTN: [[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]],
        PROJ: [[0, 1], [1, 1]],
        DOWN: [[1, 0], [1, 1]],
    }
    assert len(list((folder.parents[1] / "plots").iterdir())) == 4


def test_random_pruning_takes_as_many_whatever_their_size(run):
    one, two = run(rounds=1, criterion="random"), run(rounds=1, criterion="random", seed=1)
    counts = [sum(sum(map(sum, mask)) for mask in stored(folder, 1).values()) for folder in (one, two)]
    assert counts == [16, 16]
    assert stored(one, 1) != stored(two, 1) != MASKS[1]


@pytest.mark.parametrize(
    ("scope", "total"), [("attn+c_proj", 20), ("linear", 24), ("mlp", 8), ("all", 24 + 257 * 2 + 64 * 2 + 3 * 2)]
)
def test_scopes(run, scope, total):
    assert table(run(rounds=1, scope=scope), "rounds.csv")[0]["total"] == str(total)


def test_a_schedule_gives_each_round_its_own_rate(run):
    rows = table(run(schedule="0.1,0.29,0.5"), "rounds.csv")
    assert [row["pruned"] for row in rows] == ["", "2", "5", "6"]  # of 20, 18, 13; 5.22 and 6.5 are cut


def test_one_shot_leaves_exactly_what_the_rounds_would(run):
    folder = run("--one-shot")
    assert stored(folder, 1) == MASKS[3]
    assert [row["remaining"] for row in table(folder, "rounds.csv")] == ["20", "11"]


def test_a_prune_at_the_start_makes_m_0_and_one_training_less_follows(run):
    folder = run("--prune-at-start")
    assert [stored(folder, number) for number in range(3)] == MASKS[1:]
    assert len(list((folder / "masks").iterdir())) == 3
    rows = table(folder, "rounds.csv")
    assert [(row["round"], row["remaining"], row["pruned"]) for row in rows] == [
        ("0", "16", "4"),
        ("1", "13", "3"),
        ("2", "11", "2"),
    ]
    assert [float(row["threshold"]) for row in rows] == pytest.approx([0.04, 0.07, 0.09])
    (start,) = events(folder, "start")
    assert (start["prunes"], start["counts"]) == (2, [16, 13, 11])
    first, *_, last = events(folder, "prune")
    assert (first["round"], first["pruned"], first["threshold"]) == (0, 4, pytest.approx(0.04))
    assert first["weights"][0]["over_threshold"] == pytest.approx(0.08 / 0.04) and first["weights"][0]["alive"]
    assert (last["round"], last["weights"][0]["alive"]) == (2, False)
    assert [event["pruned_in"] for event in events(folder, "finished")[0]["weights"]] == [2]


def test_a_report_reads_what_a_prune_at_the_start_has_left(run):
    """Row 0 of the rounds has its count and threshold; the fixed coordinates are looked up in m_0 too."""
    from swlottery.report.page.facts import collect

    facts = collect([run("--prune-at-start", rounds=1), run("--prune-at-start", rounds=2, seed=1)])
    assert list(facts["runs"]["state"]) == ["finished"] * 2
    assert sorted(facts["rounds"]["round"]) == [0, 0, 1] and list(facts["rounds"]["pruned"]) == [4, 4, 3]
    assert sorted(facts["fixed"]["round"]) == [0, 0, 1] and list(facts["fixed"]["matrix_kept"]) == [4, 4, 4]
    kept = facts["kept"].sort_values(["run", "round"])
    assert set(kept["kind"]) == {"foreign"} and sorted(kept["round"]) == [0, 0, 1] and kept["matrix_size"].eq(4).all()
    assert len(facts["regression"]) == 1, "where no prune follows, the final network is that of round 1"
    assert not len(facts["twins"])


def test_with_one_round_the_network_is_trained_once(run, monkeypatch, capsys):
    """0.6 of 20 at the start: 12 go, and 0.08, which is tracked, with them. All that a run leaves is there."""
    monkeypatch.setattr("swlottery.commands.train._draw", DRAW)
    folder = run("--prune-at-start", "--trace", "log", rounds=1, prune_rate="0.6", super_weights="discover")
    said = " ".join(capsys.readouterr().out.split())
    assert "train: pruned at the start, then trained once" in said and "Round 1" not in said
    assert "Prune 0: removed 12 of 20 weights, threshold 1.200000e-01" in said and "Final ticket: training" in said
    assert "Foreign weight (0, 1, 0) was pruned at the start, at 60.00 % sparsity" in said
    assert "Kept there: 50.00 % of its matrix" in said and "before the first prune" not in said
    assert "When did they form?" in said and (folder / "round_1" / "trace.csv").exists()
    assert stored(folder, 0)[DOWN] == [[1, 0], [0, 1]]
    (row,) = table(folder, "rounds.csv")
    assert (row["remaining"], row["pruned"], float(row["threshold"])) == ("8", "12", pytest.approx(0.12))
    assert {row["alive"] for row in table(folder, "watch.csv") if row["kind"] == "foreign"} == {"0"}
    plots = folder.parents[1] / "plots"
    assert {path.name for path in plots.iterdir()} >= {"round_1.png", "magnitude.png", "perplexity.png"}
    assert main(["status", str(folder)]) == 0
    assert " final  2 of 2 " in capsys.readouterr().out


def test_one_shot_at_the_start_leaves_exactly_what_the_rounds_would(run):
    folder = run("--one-shot", "--prune-at-start")
    assert stored(folder, 0) == MASKS[3] and len(table(folder, "rounds.csv")) == 1
    assert events(folder, "start")[0]["rates"] == [str(1 - 11 / 20)]


def test_a_schedule_begins_at_the_start(run):
    rows = table(run("--prune-at-start", schedule="0.1,0.29,0.5"), "rounds.csv")
    assert [row["pruned"] for row in rows] == ["2", "5", "6"]


def test_nothing_branches_from_or_into_a_prune_at_the_start(run, small, text, tmp_path, capsys):
    parent = run("--prune-at-start", rounds=2)
    refused = flags(small, text, tmp_path / "refused", "--from-round-1", str(parent), lr=0, steps=2, eval_steps=1)
    capsys.readouterr()
    assert main([*refused, "--super-weights", "none"]) == 2
    assert "prune_at_start = True" in capsys.readouterr().err
    assert main([*refused, "--prune-at-start"]) == 2
    assert "--prune-at-start makes another first training" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


@pytest.fixture
def record(small: Path, tmp_path: Path, found_record: Path):
    """A record that names (0, 1, 0), 0.08, as the super weight of the small model, or of another network."""
    import json

    from swlottery.models import load as models

    def write(foreign: bool = False) -> str:
        content = json.loads(found_record.read_text())
        content["super_weights"] = content["super_weights"][:1]
        content["super_weights"][0].update(layer=0, out=1, **{"in": 0})
        content["joint"] = []
        if not foreign:
            content["weights_sha256"] = models.load(str(small)).weights_sha256
        path = tmp_path / f"record{foreign}.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_a_protected_weight_stays_and_another_goes_for_it(run, record):
    folder = run("--protect", "sw", super_weights=record())
    assert stored(folder, 3)[DOWN] == [[1, 1], [1, 1]]
    assert stored(folder, 3)[ATTN] == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]], "10 goes in place of 8"
    assert [row["remaining"] for row in table(folder, "rounds.csv")] == ["20", "16", "13", "11"]


def test_a_force_pruned_weight_is_masked_before_the_first_step_and_counted(run, record):
    folder = run("--force-prune", "sw", super_weights=record())
    assert stored(folder, 0) == {**MASKS[0], DOWN: [[1, 0], [1, 1]]}
    assert [row["remaining"] for row in table(folder, "rounds.csv")] == ["19", "16", "13", "11"]  # floor(3.8) = 3
    own = [row for row in table(folder, "watch.csv") if row["kind"] == "super_weight"]
    assert {row["alive"] for row in own} == {"0"} and {float(row["value"]) for row in own} == {0.0}


def test_protected_and_forced_weights_hold_in_a_prune_at_the_start(run, record):
    """What is forced counts in it, so that as much remains as elsewhere."""
    kept = run("--prune-at-start", "--one-shot", "--protect", "sw", super_weights=record())
    assert stored(kept, 0) == {**MASKS[3], ATTN: [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]], DOWN: [[1, 1], [1, 1]]}
    forced = run("--prune-at-start", "--force-prune", "sw", rounds=1, super_weights=record())
    assert stored(forced, 0) == {**MASKS[1], ATTN: [[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]], DOWN: [[1, 0], [1, 1]]}
    (row,) = table(forced, "rounds.csv")
    assert (row["remaining"], row["pruned"], float(row["threshold"])) == ("16", "4", pytest.approx(0.03))


def test_a_matched_control_can_be_force_pruned_instead(run, record):
    """Of 19, 8, −12, 16 the nearest in rank to 8 is 12."""
    folder = run("--force-prune", "controls", super_weights=record())
    assert stored(folder, 0) == {**MASKS[0], DOWN: [[1, 1], [0, 1]]}


def test_a_weight_of_another_network_is_refused_and_labelled_when_allowed(run, record, small, text, tmp_path, capsys):
    arguments = flags(small, text, tmp_path / "refused", lr=0, super_weights=record(foreign=True))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "a coordinate means nothing in another network" in said.splitlines()[-1]
    assert not (tmp_path / "refused").exists(), "nothing is written"
    folder = run("--allow-foreign", super_weights=record(foreign=True), rounds=1)
    kinds = {row["kind"] for row in table(folder, "watch.csv")}
    assert "foreign" in kinds and "super_weight" not in kinds
    assert {weight["kind"] for weight in events(folder, "finished")[0]["weights"]} == {"foreign"}


def test_the_final_network_loads_and_gives_the_logged_loss(run):
    from transformers import AutoModelForCausalLM

    from swlottery.data.batches import validation_windows
    from swlottery.data.tokens import prepare
    from swlottery.lottery.training import loss_of

    folder = run(lr=0.1, steps=3)
    model = AutoModelForCausalLM.from_pretrained(folder / "final").eval()
    row = table(folder, "rounds.csv")[-1]
    import json

    from transformers import AutoTokenizer

    source = json.loads((folder / "settings.json").read_text())["data"]
    tokens = prepare(source, AutoTokenizer.from_pretrained(folder / "final"))
    windows = validation_windows(tokens.validation, 32, 4)
    with torch.no_grad():
        loss = float(sum(loss_of(model, part) * len(part) for part in windows.split(2)) / len(windows))
    assert loss == pytest.approx(float(row["val_loss"]), rel=1e-6)
    assert math.exp(loss) == pytest.approx(float(row["val_perplexity"]), rel=1e-6)
    masks = masking.load(folder / "masks" / "round_3.safetensors")
    assert masking.violations(masks, dict(model.named_parameters())) == 0


def test_a_branch_with_its_parents_settings_is_its_parent(run, tmp_path):
    parent = run(lr=0.05, super_weights="discover")
    branch = run("--from-round-1", str(parent), lr=0.05, super_weights="discover")
    assert branch.name != parent.name
    assert [stored(branch, r) for r in range(4)] == [stored(parent, r) for r in range(4)]
    mine, other = ((one / "final" / "model.safetensors").read_bytes() for one in (branch, parent))
    assert mine == other

    def later(folder: Path) -> list[dict]:
        return [row for row in table(folder, "watch.csv") if int(row["round"]) > 1 or row["step"] == "2"]

    assert later(branch) == later(parent)
    assert len(events(branch, "evaluation")) == len(events(parent, "evaluation")) - 2, "round 1 was not trained again"
    shutil.rmtree(parent)  # a branch has all that it needs


def test_a_branch_from_another_training_is_refused(run, small, text, tmp_path, capsys):
    parent = run(rounds=1)
    capsys.readouterr()
    refused = flags(
        small, text, tmp_path / "refused", "--from-round-1", str(parent), lr=0, steps=3, super_weights="none"
    )
    assert main(refused) == 2
    assert "steps = 2" in capsys.readouterr().err
    assert main(flags(small, text, tmp_path / "refused", "--from-round-1", str(tmp_path / "nowhere"))) == 2
    assert "no trained round-1 network" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["settings.json", "round_1/round.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "{}", "7"])
def test_a_branch_from_a_damaged_run_is_refused(name, content, run, small, text, tmp_path, capsys):
    parent = tmp_path / "parent"
    (parent / "round_1").mkdir(parents=True)
    (parent / "settings.json").write_text('{"rewind_step": 0}')
    (parent / "round_1" / "round.json").write_text('{"weights_sha256": "0"}')
    (parent / name).write_text(content)
    assert main(flags(small, text, tmp_path / "refused", "--from-round-1", str(parent))) == 2
    assert "settings.json or round_1/round.json is damaged" in capsys.readouterr().err
