"""How fast text becomes tokens, on several cores.

    python bench/data.py [--text FILE|FOLDER] [--cores 2] [--megabytes 32] [--vocabulary 8192] [--repeats 3]

Side by side, in turn, on the same text with the same tokenizer:

- `ours`: `swlottery.data.tokens.prepare` with --cores processes, their start and the reading of the text included;
- `apart`: as many processes that know nothing of each other, each with its share of the text, `prepare` in one process;
- `map`: `datasets.Dataset.map(num_proc=…)` with the tokenizer's own call, which leaves the tokens in an Arrow file.

Printed: tokens a second of time and of CPU time, medians over the repeats, also relative to `apart`; and the time that
OpenWebText would take on 16 cores. The text is repeated to --megabytes, and cut into sixteen shards. On a busy machine
only the ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from swlottery.data import store as stores
from swlottery.data import tokens as data
from swlottery.data.builtin import docstrings
from swlottery.data.folders import text_files
from swlottery.data.tokenizer import builtin_tokenizer

OPENWEBTEXT = 9_040_000_000
"""Its tokens by GPT-2's tokenizer."""

APART = """
import sys, time
from pathlib import Path
sys.path[:0] = [{source!r}]
from swlottery.data import store
from swlottery.data import tokens as data
from transformers import PreTrainedTokenizerFast
store.SMALL = store.LARGE = {size}
tokenizer = PreTrainedTokenizerFast(tokenizer_file={tokenizer!r}, eos_token="<|endoftext|>")
print(time.process_time(), flush=True)
input()
data.prepare({text!r}, tokenizer, folder=Path({folder!r}), cores=1)
"""


def tokenizer_of(size: int) -> Any:
    """A byte-level BPE of so many tokens, trained on the built-in text: GPT-2's in all but its merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if size == 8192:
        return builtin_tokenizer()
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(docstrings(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")


def write_shares(text: str, megabytes: int, cores: int, folder: Path) -> None:
    """The text as documents of some 5,000 characters, as OpenWebText's are, in one folder and in one a core."""
    if text == "builtin":
        content = "\n\n".join(docstrings())
    else:
        path = Path(text)
        files = text_files(path)[0] if path.is_dir() else [path]
        content = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    content = (content * (1 + megabytes * 1_000_000 // len(content)))[: megabytes * 1_000_000]
    documents = [content[at : at + 5000] for at in range(0, len(content), 5000)]
    for name, share in {"all": documents, **{str(i): documents[i::cores] for i in range(cores)}}.items():
        for number in range(0, len(share), 100):  # a folder of very many files would time the file system
            place = folder / name / f"{number:06d}.txt"
            place.parent.mkdir(exist_ok=True)
            place.write_text("\n\n".join(share[number : number + 100]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="builtin")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = tokenizer_of(arguments.vocabulary)
    stores.SMALL = stores.LARGE = arguments.megabytes * 1_000_000 // 16
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shares(arguments.text, arguments.megabytes, arguments.cores, folder)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "ours": lambda: ours(folder, tokenizer, arguments.cores),
            "apart": lambda: apart(folder, arguments.cores),
            "map": lambda: by_map(folder, tokenizer, arguments.cores),
        }
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        tokens = 0
        for _ in range(arguments.repeats):
            for way, run in ways.items():
                begun, used = time.monotonic(), cpu()
                waited, spent = run()
                seconds[way].append((time.monotonic() - begun - waited, cpu() - used - spent))
                if way == "ours":
                    tokens = int(json.loads(next(folder.glob("ours/*/manifest-all.json")).read_text())["tokens"])
                for made in ("ours", "apart", "map"):
                    shutil.rmtree(folder / made, ignore_errors=True)
    text = f"{arguments.megabytes} MB of {arguments.text}, {tokens:,} tokens of {arguments.vocabulary}"
    print(f"{text}, {arguments.cores} cores\n")
    print("         tokens a second           a CPU second       ")
    rates = {}
    for column in (0, 1):
        rates[column] = {way: tokens / statistics.median(one[column] for one in seconds[way]) for way in ways}
    for way in ways:
        cells = (f"{rates[c][way]:12,.0f}  {rates[c][way] / rates[c]['apart']:5.2f} ×" for c in (0, 1))
        print(f"{way:6}{'    '.join(cells)}")
    core = rates[1]["ours"]
    print(f"\nOpenWebText, {OPENWEBTEXT:,} tokens, on 16 such cores: {OPENWEBTEXT / core / 16 / 60:.0f} min")


def cpu() -> float:
    """CPU seconds of this process and all that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(folder: Path, tokenizer: Any, cores: int) -> tuple[float, float]:
    data.prepare(str(folder / "all"), tokenizer, folder=folder / "ours", cores=cores)
    return 0.0, 0.0


def apart(folder: Path, cores: int) -> tuple[float, float]:
    """Returns the seconds, and the CPU seconds, before all were ready to begin, which do not count."""
    source = str(Path(data.__file__).parents[2])
    begun, spent = time.monotonic(), 0.0
    processes = []
    for number in range(cores):
        code = APART.format(
            source=source,
            size=stores.SMALL,
            tokenizer=str(folder / "tokenizer.json"),
            text=str(folder / str(number)),
            folder=str(folder / "apart"),
        )
        processes.append(
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    for process in processes:
        assert process.stdout is not None
        spent += float(process.stdout.readline())
    waited = time.monotonic() - begun
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    return waited, spent


def by_map(folder: Path, tokenizer: Any, cores: int) -> tuple[float, float]:
    import datasets

    datasets.disable_progress_bars()
    texts = [file.read_text(encoding="utf-8") for file in text_files(folder / "all")[0]]
    rows = datasets.Dataset.from_dict({"text": texts})

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"ids": tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]}

    (folder / "map").mkdir()
    made = rows.map(
        encode,
        batched=True,
        batch_size=4,
        num_proc=cores,
        remove_columns=["text"],
        load_from_cache_file=False,
        cache_file_name=str(folder / "map" / "tokens.arrow"),
    )
    assert len(made) == len(texts)
    return 0.0, 0.0


if __name__ == "__main__":
    main()
