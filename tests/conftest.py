"""What the tests of the scripts and of Slurm share: a root to run the scripts in, and a model quickly searched."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from both_scripts import BOTH, Script, make_environment, make_root
from sources import FakeHub

# The models of the tests are tiny: threads would only wait for each other; and where a test has two, they wait asleep.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
# As `main` does, but before anything imports tqdm, which asks once: nothing else is on stderr then.
os.environ["TQDM_DISABLE"] = "1"

# Started in the background by a shell, Python ignores Ctrl-C, and so would every program that the tests start; under
# nohup it ignores SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# test.sh sets it for the scripts: what a test runs in this process writes into the working folder, not into the root.
os.environ.pop("SWLOTTERY_ROOT", None)


TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of Slurm, which mostly wait, come first, then whole commands: at the end, files are short."""
    items.sort(key=lambda item: (item.path.parent != TESTS / "slurm", item.path.parent != TESTS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadfile: one worker has all tests of Slurm, with one cluster, but for the file of the longest."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "slurm" if "slurm/" in file and not file.endswith("test_requeue.py") else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """What was imported by now stays: no garbage collection looks at it again, and no forked child copies it."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU that torch can use: there is none here")


@pytest.fixture(params=BOTH, ids=lambda script: script.name)
def script(request: pytest.FixtureRequest) -> Script:
    """Each of the two scripts, for a test of what they share (scripts/job.sh)."""
    one: Script = request.param
    return one


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a cache folder of the test's own."""
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub with one data set, in place of the real one."""
    fake = FakeHub()
    monkeypatch.setattr("datasets.load_dataset", fake.load_dataset)
    monkeypatch.setattr("swlottery.data.hub.newest", lambda name: fake.commit)
    return fake


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands draw nothing: of a tiny model that takes longer than all else, and has tests of its own."""
    monkeypatch.setattr("swlottery.commands.train._draw", lambda *_: [])
    monkeypatch.setattr("swlottery.report.figures.find.draw", lambda *_: [])


@pytest.fixture
def few_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the built-in text a sixteenth, in a cache of its own: to collect all of it takes 20 s."""
    from swlottery.data import builtin

    modules = builtin._modules
    monkeypatch.setattr(builtin, "_modules", lambda: itertools.islice(modules(), 0, None, 16))
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def script_root(tmp_path: Path) -> Path:
    """A copy of what the scripts need, with the code itself linked: logs and records land here."""
    return make_root(tmp_path / "root")


# In place of the program: says how it was called, and does what the flags ask for.
STUB = """\
import os, signal, sys, time
flags = sys.argv[1:]
sys.stdout.reconfigure(line_buffering=True, write_through=False)  # a line is one write, also if PYTHONUNBUFFERED
if "--help" in flags:
    print("the flags of", flags[0])
    sys.exit(0)
def stop(number, frame):
    time.sleep(0.3)
    print("saved")
    sys.exit(75)
if "--saves" in flags and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    signal.signal(signal.SIGHUP, stop)
    signal.signal(signal.SIGTERM, stop)
if sys.stderr.isatty():
    print("a progress bar", file=sys.stderr)
print("flags", flags, "in", os.getcwd())  # last of what is said at once: a test may close the terminal then
if "--bad" in flags:
    sys.stderr.write("swlottery: no flag --bad\\n")
    sys.exit(2)
if "--nap" in flags:
    time.sleep(1)
    print("a line")
    try:
        print("a warning", file=sys.stderr)
    except OSError:  # no terminal any more
        os._exit(0)
if "--sleep" in flags:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("weights restored")
        sys.exit(130)
sys.exit(int(os.environ.get("STUB_EXIT", 0)))
"""


@pytest.fixture
def stub_root(script_root: Path) -> Path:
    """`script_root` with a program that takes no time: for all that the scripts do around it."""
    (script_root / "src").unlink()
    package = script_root / "src" / "swlottery"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(STUB)
    return script_root


@pytest.fixture
def script_environment(tmp_path: Path) -> dict[str, str]:
    """The variables to run a script with: those of the tests without any Slurm's, and the environment above."""
    return make_environment(tmp_path / "environment")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a randomly initialised GPT-2 (2 layers, width 32) whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-gpt2")
    end = "<|endoftext|>"
    vocabulary = {character: i for i, character in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), end])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_positions=512,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=vocabulary[end],
        eos_token_id=vocabulary[end],
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def find_flags(tiny_gpt2: Path, tmp_path: Path) -> Callable[[Path], list[str]]:
    """Flags of `swlottery find` for a search of the tiny model, in seconds; its record goes to the path given."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)))

    def flags(record: Path) -> list[str]:
        return [
            "--model",
            str(tiny_gpt2),
            "--out",
            str(record),
            "--plots",
            str(tmp_path / "plots"),
            "--eval-text",
            str(text),
            "--eval-tokens",
            "2000",
            "--controls",
            "2",
            "--null-draws",
            "9",
            "--device",
            "cpu",
            "--dtype",
            "float32",
        ]

    return flags


@pytest.fixture
def train_flags(tiny_gpt2: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Flags of `swlottery train` for two short rounds of the tiny model, in seconds; changes by the settings' names."""
    text = tmp_path / "train.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would learn by heart." for i in range(200)))

    def flags(**changes: object) -> list[str]:
        settings: dict[str, object] = {
            "model": tiny_gpt2,
            "data": text,
            "context": 32,
            "micro_batch": 2,
            "steps": 6,
            "rounds": 2,
            "lr": 1e-2,
            "eval_steps": 3,
            "eval_sequences": 4,
            "threads": 1,
            "device": "cpu",
        } | changes
        return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]

    return flags


@pytest.fixture(scope="session")
def planted_gpt2(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> tuple[Path, object]:
    """A folder with a tiny GPT-2 that has one super weight, planted for the default prompts, and its coordinate.

    The weight is planted at the full stop that ends the paper's prompt when it begins with BOS, five bounds high.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import planted
    from swlottery.find import probe
    from swlottery.models.architectures import Roles
    from swlottery.models.coordinates import Coordinate

    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval().requires_grad_(False)
    roles = Roles(model)
    # Fewer tokens than hidden channels, so that one token can be told from all others by a direction.
    short = probe.build(tokenizer, ["Apple Inc. is a worldwide tech"], 512, "with")
    torch.manual_seed(0)
    plant = planted.plant_input(model, roles, short, Coordinate(1, 5, 60), 0, size=300.0)
    planted.plant_weight(model, roles, short, plant, 5.0)
    folder = tmp_path_factory.mktemp("planted")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, plant.coordinate


@pytest.fixture(scope="session")
def found_record(planted_gpt2: tuple[Path, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record that the real command wrote of the planted model."""
    from swlottery.cli import main

    folder = tmp_path_factory.mktemp("found")
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)))
    code = main(
        [
            "find",
            "--model",
            str(planted_gpt2[0]),
            "--out",
            str(folder / "record.json"),
            "--plots",
            str(folder / "plots"),
            "--eval-text",
            str(text),
            "--eval-tokens",
            "2000",
            "--controls",
            "4",
            "--null-draws",
            "19",
            "--device",
            "cpu",
        ]
    )
    assert code == 0
    return folder / "record.json"
