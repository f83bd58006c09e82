"""lm-evaluation-harness on a ticket, by the command of docs/evaluation.md, offline, with a task from a local file.

The harness is no dependency: .ci/run has it in an environment of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from odd import model, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("lm_eval"), reason="lm_eval is not installed: .ci/run has it; docs/evaluation.md"),
]

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
(COMMAND,) = (shlex.split(line)[1:] for line in re.findall(r"^    \S+lm_eval (?:.*)$", PAGE, re.MULTILINE))
TASK = """\
task: ours
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def likelihood(network: object, tokenizer: object, question: str, choice: str) -> float:
    """log p(choice | question) in nats, by transformers alone."""
    ids = torch.tensor(tokenizer(f"{question} {choice}")["input_ids"])
    first = len(tokenizer(question)["input_ids"])
    with torch.no_grad():
        log_p = network(input_ids=ids[None]).logits[0].log_softmax(-1)
    return log_p[range(first - 1, len(ids) - 1), ids[first:]].sum().item()


@pytest.mark.parametrize("first", ["--super-weights=none", "--first-token"])
def test_the_harness_loads_a_ticket(first: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model(here / "m")
    scratch = ["--start", "scratch", "--tokenizer", "m", "--lr", "0.01", "--super-weights", "none", first]
    said = train("gpt2-mini", *scratch)
    assert said.code == 0, said
    (run,) = Path("runs").iterdir()
    rows = [
        {"question": f"{n} quick brown foxes", "choices": ["jump", "are lazy", "sit"], "answer": n % 3}
        for n in range(6)
    ]
    Path("tasks").mkdir()
    Path("tasks/ours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("tasks/ours.yaml").write_text(TASK % (here / "tasks" / "ours.jsonl"))
    words = [word.replace("RUN", run.name) for word in COMMAND]
    for flag, value in {"--tasks": "ours", "--device": "cpu", "--output_path": "out"}.items():
        words[words.index(flag) + 1] = value
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(here / "cache")}
    command = [sys.executable, "-m", "lm_eval", *words, "--include_path", "tasks", "--log_samples"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (samples,) = map(Path.read_text, Path("out").rglob("samples_ours_*.jsonl"))
    network, tokenizer = (kind.from_pretrained(run / "final") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert (tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id) == (first == "--first-token")
    right = 0
    for line in samples.splitlines():
        sample = json.loads(line)
        row = sample["doc"]
        expected = [likelihood(network, tokenizer, row["question"], choice) for choice in row["choices"]]
        given = [float(one[0][0]) for one in sample["resps"]]
        assert given == pytest.approx(expected, abs=1e-4)
        right += expected.index(max(expected)) == row["answer"]
    (results,) = map(Path.read_text, Path("out").rglob("results_*.json"))
    assert json.loads(results)["results"]["ours"]["acc,none"] == pytest.approx(right / len(rows))


def test_the_tasks_that_the_page_names_are_the_harness_s() -> None:
    from lm_eval.tasks import TaskManager

    named = COMMAND[COMMAND.index("--tasks") + 1].split(",")
    assert set(named) <= set(TaskManager().all_tasks) and len(named) == 7
