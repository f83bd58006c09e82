"""The making of tokens: by several processes, in shards, stopped and gone on with; and ``swlottery prepare``."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm
from hypothesis import given, settings
from hypothesis import strategies as st

from both_scripts import hide_modules, make_environment
from sources import FakeHub, LedgerTokenizer, answer, python, refusal, tokenizer_with
from swlottery import cli
from swlottery.config import TrainSettings
from swlottery.data import hub, preparation, workers
from swlottery.data import store as stores
from swlottery.data import tokenize as encode
from swlottery.data import tokens as data
from swlottery.data.shards import Joined, Shard, write_shard
from swlottery.data.tokens import prepare
from swlottery.lottery import start
from swlottery.report.logs.prepare import PrepareLog
from swlottery.runtime.files import lock


def tokenizer() -> Any:
    return tokenizer_with("<s>", "</s>", bos_token="<s>", eos_token="</s>")


pytestmark = pytest.mark.usefixtures("here")


def set_sizes(monkeypatch: pytest.MonkeyPatch, small: int, large: int, few: int) -> None:
    for name, value in {"SMALL": small, "LARGE": large, "FEW": few}.items():
        monkeypatch.setattr(stores, name, value)


def write_text(path: Path, count: int = 120) -> list[str]:
    """A folder of documents, no two alike, of 1 to 2,000 characters."""
    rng = random.Random(14)
    texts = [f"{i:07d} " + "".join(rng.choices("abcdefgh \n\té", k=rng.randrange(1, 2000))) for i in range(count)]
    path.mkdir()
    for i, text in enumerate(texts):
        (path / f"{i:04d}.txt").write_text(text)
    return texts


def content(folder: Path) -> dict[str, bytes]:
    """All that stands in a prepared source's folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- The tokens of before -------------------------------------------------------------------------------------------

BEFORE = [
    # what the code made before there were shards: source, limit, tokenizer; sha256, tokens, documents
    ("corpus", None, "bytes", "aae39eb83ff0be55", 359142, 18902, 61),
    ("corpus", None, "blank", "d4bc885b36a48095", 359200, 18905, 61),
    ("corpus", 57, "bytes", "10d56b95f6672c86", 46, 11, 1),
    ("corpus", 1000, "blank", "64d9064fc2322ab3", 800, 200, 2),
    ("corpus", 100000, "bytes", "438b7f62e9ad09f4", 80940, 19060, 28),
    ("corpus", 10000000, "bytes", "aae39eb83ff0be55", 359142, 18902, 61),
    ("one.txt", None, "bytes", "70425aa6907fb91b", 342001, 18000, 1),
    ("one.txt", 150001, "blank", "4bf934ecf98bca15", 133617, 16384, 1),
    ("one.txt", 4, "bytes", "7a313ed3f45da0c3", 4, 0, 1),
]


@pytest.fixture
def texts_of_before(here: Path) -> None:
    rng = random.Random(14)
    (here / "corpus").mkdir()
    for i in range(60):
        count = rng.randrange(1, 4000)
        text = "".join(rng.choices(["a", "b ", "\n", "\n\n", "é", "日", " \t"], k=count))
        (here / "corpus" / f"{i:02d}.txt").write_bytes(text.encode())
    (here / "corpus" / "60.txt").write_bytes(b"x y\n" * 40000)
    (here / "one.txt").write_bytes("Grüße, \r\n\n".encode() * 30000)


@pytest.mark.parametrize("sizes", [(1 << 23, 1 << 25, 16), (30_000, 60_000, 2)], ids=["one shard", "many"])
def test_local_text_has_the_tokens_split_and_hash_of_before(
    texts_of_before: None, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int]
) -> None:
    set_sizes(monkeypatch, *sizes)
    for source, limit, kind, digest, train, validation, documents in BEFORE:
        made = prepare(source, tokenizer() if kind == "bytes" else tokenizer_with(), limit, cores=1)
        found = (made.manifest["sha256"][:16], len(made.train), len(made.validation), made.manifest["documents"])
        assert found == (digest, train, validation, documents), (source, limit, kind)


# --- Tokenizing -----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_quick_way_gives_the_tokens_of_the_tokenizers_own_call(texts: list[str]) -> None:
    for one in TOKENIZERS:
        whole = one(texts, add_special_tokens=False)["input_ids"] if texts else []
        assert [*map(list, encode.Encoder(one)(texts))] == whole


def _tokenizers() -> list[Any]:
    called = tokenizer()
    called.pad_token = "</s>"
    called("pads, or cuts", padding="max_length", truncation=True, max_length=3)  # and remembers that
    added = tokenizer()
    added.add_tokens(["  ", "ab"])
    return [called, added, tokenizer_with("<s>", split_special_tokens=True, eos_token="</s>")]


TOKENIZERS = _tokenizers()


def test_a_tokenizer_whose_call_does_something_else_is_called() -> None:
    real = tokenizer()

    class Lower(type(real)):  # type: ignore[misc]
        def __call__(self, texts: Any, **options: Any) -> Any:
            return super().__call__([text.lower() for text in texts], **options)

    lower = Lower(tokenizer_object=real.backend_tokenizer, eos_token="</s>")
    encoder = encode.Encoder(lower)
    assert encoder.tokenizer is lower and encode.Encoder(real).tokenizer is None
    assert [*map(list, encoder(["ABC"]))] == real(["abc"], add_special_tokens=False)["input_ids"]


def test_a_process_that_makes_tokens_imports_little() -> None:
    code = "import json, sys, swlottery.data.workers; print(json.dumps(sorted(sys.modules)))"
    assert not {"torch", "transformers", "datasets"} & {*answer(python(code))}


# --- Shards ---------------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), drawn=st.data())
@settings(max_examples=100, deadline=None)
def test_joined_shards_are_one_array(
    sizes: list[int], drawn: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    whole, shards, at = np.arange(sum(sizes), dtype="<u2"), [], 0
    for number, size in enumerate(sizes):
        write_shard(folder / f"{number}", whole[at : at + size], np.empty(0, "<u4"), {})
        shards.append(Shard(folder / f"{number}"))
        at += size
    first = drawn.draw(st.integers(0, len(whole)))
    last = drawn.draw(st.integers(first, len(whole) + 3))
    joined, expected = Joined(shards, first, last), whole[first:last]
    assert len(joined) == len(expected) and joined[:].tolist() == expected.tolist()
    assert [n for shard, a, b in joined.parts() for n in shard.tokens[a:b]] == expected.tolist()
    for _ in range(5):
        part = slice(*(drawn.draw(st.none() | st.integers(-12, 60)) for _ in range(2)))
        assert joined[part].tolist() == expected[part].tolist()
        assert joined[part].dtype == whole.dtype


# --- Several processes ----------------------------------------------------------------------------------------------


def test_the_bytes_are_the_same_however_many_processes_make_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 5_000, 10_000, 4)
    write_text(here / "text")
    made = {cores: prepare("text", tokenizer(), folder=here / str(cores), cores=cores) for cores in (1, 2, 3)}
    first = content(made[1].folder)
    assert len(first) > 10
    assert content(made[2].folder) == content(made[3].folder) == first


def test_processes_import_nothing_from_the_current_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 5_000, 10_000, 4)
    write_text(here / "text")
    hide_modules(here)
    monkeypatch.setenv("PYTHONPATH", f":{os.environ.get('PYTHONPATH', '')}:./")
    monkeypatch.setattr(sys, "executable", f"{make_environment(tmp_path / 'old')['SWLOTTERY_VENV']}/bin/python3")
    assert len(content(prepare("text", tokenizer(), folder=here / "store", cores=2).folder)) > 10


def test_a_short_text_starts_no_process(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "Processes", lambda *_: pytest.fail("started"))
    write_text(here / "text")
    prepare("text", tokenizer(), cores=4)
    set_sizes(monkeypatch, 5_000, 10_000, 4)
    prepare("text", tokenizer(), tokens=900, cores=4)  # a shard is enough


def test_a_run_that_needs_more_extends_what_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 5_000, 10_000, 4)
    write_text(here / "text")
    counts = []
    for limit in (3_000, 30_000, 3_000, 50_000, None):
        before = {name: one for name, one in _times(here / "store").items() if "manifest" not in name}
        tokens = prepare("text", tokenizer(), limit, folder=here / "store", cores=1)
        assert before.items() <= _times(here / "store").items()
        counts.append(len(list(tokens.folder.glob("*.safetensors"))))
    assert counts[0] < counts[1] == counts[2] < counts[3] < counts[4]
    alone = prepare("text", tokenizer(), folder=here / "alone", cores=1)
    shards = {name: one for name, one in content(tokens.folder).items() if name.endswith(".safetensors")}
    assert shards.items() <= content(alone.folder).items()


def _times(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in store.glob("*/*")} if store.exists() else {}


def test_a_process_that_is_lost_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 2_000, 2_000, 4)
    write_text(here / "text")
    started: list[Any] = []
    real = workers._Worker

    def start_one() -> Any:
        started.append(real())
        return started[-1]

    def kill(done: int, total: int | None) -> None:
        if done:
            started[0].process.kill()

    monkeypatch.setattr(workers, "_Worker", start_one)
    message = refusal("text", tokenizer(), progress=kill, cores=2, of=prepare)
    assert "killed by signal 9" in message and "goes on" in message
    assert all(one.process.poll() is not None for one in started)
    assert prepare("text", tokenizer(), cores=1).manifest["documents"] == 120


def test_a_full_disk_met_by_another_process_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 2_000, 2_000, 4)
    write_text(here / "text")
    place = here / "gone"

    def remove(done: int, total: int | None) -> None:
        for folder in place.glob("text-*[!k]"):
            with contextlib.suppress(OSError):
                folder.rename(here / "moved")
                folder.write_text("in the way")

    message = refusal("text", tokenizer(), progress=remove, folder=place, cores=2, of=prepare)
    assert f"cannot write the tokens of text (120 files) in {place}" in message


# --- Killed and started again ---------------------------------------------------------------------------------------

LIFE = """
import sys
from swlottery.data import store as stores
from swlottery.data import tokens as data
from sources import LedgerTokenizer

stores.SMALL = stores.LARGE = 1000
data.prepare("text", LedgerTokenizer("ledger", 0.01), folder=__import__("pathlib").Path("store"), cores=2)
"""


def _begun(here: Path) -> list[tuple[int, str]]:
    lines = (here / "ledger").read_text().splitlines() if (here / "ledger").exists() else []
    return [(int(line.split(" ")[0]), line.split(" ")[1]) for line in lines]


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def _live_and_be_killed(here: Path, rng: random.Random) -> None:
    """A start that is killed at a random moment; all that it had started end with it."""
    enough = len(_begun(here)) + rng.randrange(5)
    life = python(LIFE)
    _wait_for(lambda: len(_begun(here)) >= enough or life.poll() is not None)
    time.sleep(rng.uniform(0, 0.05))
    life.kill()
    _, err = life.communicate()
    assert life.returncode == -signal.SIGKILL, err
    made_by = {pid for pid, _ in _begun(here)}
    _wait_for(lambda: all(map(_is_gone, made_by)))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_started_again_it_has_the_same_bytes(
    here: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    set_sizes(monkeypatch, 1000, 1000, 16)
    rng = random.Random(kills)
    write_text(here / "text", 20 * kills)
    alone = prepare("text", LedgerTokenizer(os.devnull), folder=here / "alone", cores=1)
    shards = len(list(alone.folder.glob("*.safetensors")))
    for _ in range(kills):
        _live_and_be_killed(here, rng)
    life = python(LIFE)
    _, err = life.communicate(timeout=300)
    assert life.returncode == 0, err
    (made,) = (path for path in (here / "store").iterdir() if path.is_dir())
    for leftover in made.glob(".*"):
        leftover.unlink()  # younger than `ABANDONED`
    assert content(made) == content(alone.folder)
    texts = [text for _, text in _begun(here)]
    begun = sum(text.isdigit() for text in texts)  # others are what an encoder is tried on
    assert shards <= begun <= shards + 2 * kills


COMMAND = """
import sys
from swlottery import cli
from swlottery.data import store as stores
from swlottery.data import tokenize as encode

stores.SMALL = stores.LARGE = 3000
encode.BATCH = 1000
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_command_stops_when_asked_and_goes_on(
    here: Path, number: int, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(here / "text", 400)
    flags = ["prepare", "--model", str(tiny_gpt2), "--data", "text", "--context", "32"]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    store = Path(os.environ["SWLOTTERY_CACHE"]) / "tokens"
    _wait_for(lambda: len(list(store.glob("*/train-*.safetensors"))) > 2 or process.poll() is not None)
    os.killpg(process.pid, number)  # a terminal's Ctrl-C, its end, and Slurm's signals reach every process of a job
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "goes on from there" in out and err == ""
    there = _times(store)
    set_sizes(monkeypatch, 3000, 3000, 16)
    capsys.readouterr()
    assert cli.main(flags) == 0
    again = capsys.readouterr().out
    assert "tokens to train on" in again and str(store) in again
    assert there.items() <= _times(store).items()


# --- Sets on the hub ------------------------------------------------------------------------------------------------


def test_a_store_grows_with_the_commit_that_it_was_begun_with(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 500, 500, 4)
    fake_hub.splits = {"train": [{"text": f"{i:09d}"} for i in range(1000)]}
    begun = fake_hub.commit
    first = prepare("owner/name", tokenizer(), 100, cores=1)
    fake_hub.commit = "b" * 40
    second = prepare("owner/name", tokenizer(), 3000, cores=1)
    assert fake_hub.read == [begun, begun]
    assert first.manifest["revision"] == second.manifest["revision"] == begun
    assert (
        second.train[:].tolist()[:100] == first.train[:].tolist()
        and second.validation[:].tolist() == first.validation[:].tolist()
    )


@pytest.mark.parametrize("lost", ["validation-00000", "train-00001"])
def test_a_store_is_of_one_commit_whatever_is_lost(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    set_sizes(monkeypatch, 500, 500, 4)
    fake_hub.splits = {"train": [{"text": f"{i:09d}"} for i in range(1000)]}
    begun = fake_hub.commit
    first = prepare("owner/name", tokenizer(), 1500, cores=1)
    fake_hub.commit = "b" * 40
    (first.folder / f"{lost}.safetensors").unlink()
    again = prepare("owner/name", tokenizer(), 3000, cores=1)
    assert {Shard(path).about["revision"] for path in first.folder.glob("*.safetensors")} == {begun}
    assert again.train[:1500].tolist() == first.train[:].tolist()


def test_shards_of_an_unknown_commit_are_made_again(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 500, 500, 4)
    fake_hub.splits = {"train": [{"text": f"{i:09d}"} for i in range(1000)]}
    newest, fake_hub.commit = fake_hub.commit, None  # the hub could not be asked
    first = prepare("owner/name", tokenizer(), 1500, cores=1)
    fake_hub.commit = newest
    said: list[str] = []
    prepare("owner/name", tokenizer(), 3000, cores=1, say=said.append)
    assert {Shard(path).about["revision"] for path in first.folder.glob("*.safetensors")} == {newest}
    assert all("is of another version of owner/name: it is made again" in line for line in said) and said


def test_a_damaged_shard_behind_a_missing_one_is_made_again(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 500, 500, 4)
    fake_hub.splits = {"train": [{"text": f"{i:09d}"} for i in range(1000)]}
    first = prepare("owner/name", tokenizer(), cores=1)
    whole = first.train[:].tolist()
    (first.folder / "train-00002.safetensors").unlink()
    damaged = first.folder / "train-00007.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert prepare("owner/name", tokenizer(), cores=1).train[:].tolist() == whole


def test_an_error_while_waiting_does_not_go_on_without_the_lock(tmp_path: Path) -> None:
    def gone() -> None:
        raise BrokenPipeError

    with (
        lock(tmp_path / "store", print),
        pytest.raises(BrokenPipeError),
        lock(tmp_path / "store", lambda _: None, gone),
    ):
        raise AssertionError("went on while another has it")


def test_a_set_that_has_become_shorter_is_refused(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 500, 500, 4)
    fake_hub.splits = {"train": [{"text": f"{i:09d}"} for i in range(1000)]}
    prepare("owner/name", tokenizer(), 3000, cores=1)
    fake_hub.splits = {"train": [{"text": f"{i:09d}"} for i in range(10)]}
    assert "another text now" in refusal("owner/name", tokenizer(), cores=1, of=prepare)


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A set of three files behind the real library. Yields its documents."""
    import datasets
    import pyarrow
    from pyarrow import parquet as files

    documents = [f"document {i:05d}" for i in range(900)]
    names = []
    for number in range(3):
        names.append(str(tmp_path / f"{number}.parquet"))
        rows = pyarrow.table({"text": documents[300 * number : 300 * number + 300]})
        files.write_table(rows, names[-1], row_group_size=50)
    real = datasets.load_dataset
    made = lambda *_, **__: real("parquet", data_files={"train": names}, streaming=True)  # noqa: E731
    monkeypatch.setattr("datasets.load_dataset", made)
    monkeypatch.setattr("swlottery.data.hub.newest", lambda name: None)
    yield documents


def test_a_stopped_set_is_not_read_again_from_its_start(
    here: Path, parquet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 700, 1400, 4)
    rows: list[str] = []
    real = hub.Texts.read

    def read(self: hub.Texts) -> Iterator[str]:
        for text in real(self):
            rows.append(text)
            yield text

    monkeypatch.setattr(hub.Texts, "read", read)
    ends: list[int] = []
    for limit in (1000, 4000, 4001, 9000, None):
        grown = prepare("owner/name", tokenizer(), limit, folder=here / "grown", cores=1)
        ends.append(len(rows))
    assert len(rows) <= 900 + 2 * len(ends)  # the row behind a shard's end is read once more
    rows.clear()
    alone = prepare("owner/name", tokenizer(), folder=here / "alone", cores=1)
    assert rows == parquet
    assert grown.manifest == alone.manifest and grown.train[:].tolist() == alone.train[:].tolist()
    kept = {name: one for name, one in content(grown.folder).items() if name.endswith(".safetensors")}
    assert kept.items() <= content(alone.folder).items()


def test_of_another_version_of_the_library_no_place_is_taken(
    here: Path, parquet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 700, 1400, 4)
    grown = prepare("owner/name", tokenizer(), 1000, cores=1)
    for path in grown.folder.glob("train-*.json"):
        noted = json.loads(path.read_text())
        noted["place"] |= {"datasets": "0.1", "rows": {"no": "place"}}
        path.write_text(json.dumps(noted))
    whole = prepare("owner/name", tokenizer(), cores=1)
    alone = prepare("owner/name", tokenizer(), folder=here / "alone", cores=1)
    assert whole.manifest == alone.manifest


# --- How many tokens ------------------------------------------------------------------------------------------------


def test_auto_is_what_the_rounds_can_read_of_a_set_and_all_of_a_file(here: Path) -> None:
    (here / "x.txt").write_text("words")
    shape: dict[str, Any] = {"steps": 7, "micro_batch": 3, "grad_accum": 2, "rounds": 4}
    one = TrainSettings(data="openwebtext", **shape)
    assert data.token_limit(one, 10) == 7 * 3 * 2 * 11
    fresh = TrainSettings(data="openwebtext", data_order="fresh", **shape)
    assert data.token_limit(fresh, 10) == 7 * 3 * 2 * 11 * 5
    for source in ("builtin", "x.txt", "."):
        assert data.token_limit(TrainSettings(data=source, **shape), 10) is None
    assert data.token_limit(TrainSettings(data="openwebtext", data_tokens="0"), 10) is None
    assert data.token_limit(TrainSettings(data="x.txt", data_tokens="5"), 10) == 5
    for text in ("", "all", "-1", "1.5", "٣", str(2**63)):
        assert "--data-tokens" in refusal(of=TrainSettings(data_tokens=text).check)


# --- The command ----------------------------------------------------------------------------------------------------


def test_the_command_makes_what_a_training_then_finds(
    tiny_gpt2: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    train_flags: Callable[..., list[str]],
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from swlottery.models import load as model

    with monkeypatch.context() as without:
        without.setattr("swlottery.models.pretrained.read", lambda *_: pytest.fail("weights were loaded"))
        without.setattr(model, "pick_device", lambda *_: pytest.fail("a device was looked for"))
        assert cli.main(["prepare", *train_flags(device="cuda:7")]) == 0
    out = capsys.readouterr().out
    (folder,) = (path for path in (Path(os.environ["SWLOTTERY_CACHE"]) / "tokens").iterdir() if path.is_dir())
    assert str(folder) in out and "tokens to train on" in out
    monkeypatch.setattr(preparation.Preparation, "make", lambda *_: pytest.fail("made again"))
    assert cli.main(["train", *train_flags(runs=here / "runs", plots=here / "plots", super_weights="none")]) == 0


def test_from_scratch_and_pretrained_the_command_has_the_tokenizer_and_the_context_of_the_run(tiny_gpt2: Path) -> None:
    for chosen in (
        TrainSettings(model=str(tiny_gpt2), device="cpu"),
        TrainSettings(model="gpt2-mini", start="scratch", tokenizer=str(tiny_gpt2), device="cpu"),
    ):
        network = start.network(chosen)
        tokenizer, context = start.tokenizer_and_context(chosen)
        assert encode.fingerprint(tokenizer) == encode.fingerprint(network.tokenizer) and context == network.context


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--model", "gpt2-mini"], "from scratch only"),
        (["--model", "./no-such"], "no such file or folder"),
        (["--model", "nonsense", "--start", "scratch"], "from their configs"),
        (["--data-tokens", "many"], "--data-tokens many"),
        (["--modell", "x"], "did you mean --model?"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(["prepare", *flags])
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    assert code == 2 and words in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.slow
@pytest.mark.smollm2
def test_a_gguf_file_is_not_converted_for_its_tokenizer() -> None:
    from swlottery.models import gguf
    from swlottery.models import load as model

    tokenizer, context = model.load_tokenizer("smollm2")
    assert not (Path(os.environ["SWLOTTERY_CACHE"]) / "gguf").exists()
    converted, longest = model.load_tokenizer(str(gguf.converted_folder(gguf.smollm2_file())))
    assert encode.fingerprint(tokenizer) == encode.fingerprint(converted) and context == longest == 8192


def test_a_log_gets_a_line_a_minute() -> None:
    now, lines = [1000.0], []
    log = PrepareLog(False, lines.append, lambda: now[0])
    log.progress(0, None)  # another job is at work
    for second in range(0, 200, 10):
        now[0] = 1000.0 + second
        log.progress(500_000 + 1000 * second, 1_000_000)
    assert lines == [
        "making tokens: 560,000 of about 1,000,000, 1,000 a second, 7 min 20 s left",
        "making tokens: 620,000 of about 1,000,000, 1,000 a second, 6 min 20 s left",
        "making tokens: 680,000 of about 1,000,000, 1,000 a second, 5 min 20 s left",
    ]
    now[0] += 100
    log.progress(900_000, None)
    assert lines[-1].startswith("making tokens: 900,000, ") and lines[-1].endswith(" a second")


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tqdm.tqdm", functools.partial(tqdm.tqdm, disable=False))  # TQDM_DISABLE is read at its import
    with PrepareLog(True, lambda line: pytest.fail("a line")) as log:
        log.progress(0, None)
        for done in (5_000, 6_000):
            log.progress(done, 10_000)
    assert "making tokens" in capsys.readouterr().err
