"""How many steps T should a round of the study have? The pilot of docs/study.md: two seeds, one prune each.

    for T in 100 200 300: swlottery sweep … (configs/study/pilot.yaml)
    python bench/pilot.py runs/pilot

Printed of each run: its held-out loss, that of the unigram frequencies of the training text, the rank correlation
between |θ_T1| and |θ_0| over the c_proj weights, and seconds a step. Nothing of any tracked weight is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from swlottery.report.page.stored import StoredRun
from swlottery.report.run_files import read_events, read_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    arguments = parser.parse_args()
    print(f"{'T':>5}{'seed':>6}{'held-out':>10}{'unigram':>9}{'below it':>10}{'correlation':>13}{'s/step':>8}")
    runs = [path.parent for path in arguments.study.glob("*/*/settings.json")]
    for run in sorted(runs, key=lambda run: (read_settings(run)["steps"], read_settings(run)["seed"])):
        settings = read_settings(run)
        loss = next(e["val_loss"] for e in read_events(run) if e["event"] == "round")
        finished = next(e["step_seconds"] for e in read_events(run) if e["event"] == "finished")
        seconds, unigram = finished / (2 * settings["steps"]), unigram_loss(settings)
        print(f"{settings['steps']:5d}{settings['seed']:6d}{loss:10.4f}{unigram:9.4f}", end="")
        print(f"{unigram - loss:10.4f}{correlation(run):13.4f}{seconds:8.3f}")


def unigram_loss(settings: dict) -> float:
    """Nats a held-out token under the frequencies of the training tokens, one added to each count."""
    from swlottery.config import TrainSettings
    from swlottery.data.batches import validation_windows
    from swlottery.data.tokens import prepare
    from swlottery.lottery import start

    network = start.network(TrainSettings(**settings))
    data = prepare(settings["data"], network.tokenizer)
    counts = np.bincount(data.train[:], minlength=network.model.config.vocab_size) + 1.0
    windows = validation_windows(data.validation, network.context, settings["eval_sequences"], network.prefix)
    held_out = np.concatenate([np.asarray(window).reshape(-1) for window in windows])
    return float(-np.log(counts[held_out] / counts.sum()).mean())


def correlation(run: Path) -> float:
    """Spearman's, between |θ_T1| and |θ_0|, over all c_proj weights."""
    from scipy.stats import spearmanr

    whole = StoredRun(run)
    sizes = [
        np.concatenate([np.abs(t).reshape(-1) for t in (whole.tensors(f) or {}).values()])
        for f in ("theta_0.safetensors", "round_1/model.safetensors")
    ]
    return float(spearmanr(*sizes).statistic)


if __name__ == "__main__":
    main()
