"""The built-in text: which docstrings, in which order, and how they are kept: `swlottery.data.builtin`."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from sources import answer, python
from swlottery.data import builtin
from swlottery.data.evaluation import builtin_text, read_text
from swlottery.runtime import sums
from swlottery.runtime.files import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prose(topic: str) -> str:
    return f"About {topic}. " + "More of it. " * 20 + "The end."


Sources = tuple[Path, Path]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """A standard library and a torch of a few lines in the place of the real ones."""
    library, torch_folder = tmp_path / "lib", tmp_path / "torch"
    library.mkdir()
    torch_folder.mkdir()
    (library / "zoo.py").write_text(f'"""{prose("zoo")}"""')
    (torch_folder / "__init__.py").write_text(f'"""{prose("torch")}"""')
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=str(torch_folder / "x.py")))
    return library, torch_folder


def topics() -> list[str]:
    paragraphs = builtin_text().content.split("\n\n")
    assert all(paragraph == prose(paragraph.split(".")[0].removeprefix("About ")) for paragraph in paragraphs)
    return [paragraph.split(".")[0].removeprefix("About ") for paragraph in paragraphs]


def test_modules_come_by_path_the_standard_library_first(sources: Sources) -> None:
    library, _ = sources
    for name in ("b", "a/late", "a/early", "a"):
        (library / name).parent.mkdir(exist_ok=True)
        (library / f"{name}.py").write_text(f'"""{prose(name)}"""')
    assert topics() == ["a", "a/early", "a/late", "b", "zoo", "torch"]


def test_docstrings_come_in_source_order_from_wherever_a_definition_stands(sources: Sources) -> None:
    library, _ = sources
    (library / "zoo.py").write_text(f'''"""{prose("module")}"""
class A:
    """{prose("A")}"""
    def method(self):
        """{prose("method")}"""
        def inner():
            """{prose("inner")}"""
    async def later(self):
        """{prose("later")}"""
try:
    if method:
        def conditional():
            """{prose("conditional")}"""
    else:
        def otherwise():
            """{prose("otherwise")}"""
except ImportError:
    def fallback():
        """{prose("fallback")}"""
match 1:
    case 1:
        def case():
            """{prose("case")}"""
no_docstring = """{prose("a string")}"""
''')
    order = ["module", "A", "method", "inner", "later", "conditional", "otherwise", "fallback", "case"]
    assert topics() == [*order, "torch"]


def test_docstrings_are_dedented_and_neither_short_nor_repeated(sources: Sources) -> None:
    library, _ = sources
    (library / "zoo.py").write_text(
        f'def f():\n    """  First line.\n\n      {"x" * 200}\n    Last.\n    """\n'
        f'def at_the_bar():\n    """{"y" * builtin.MIN_DOCSTRING}"""\n'
        f'def below():\n    """{"z" * (builtin.MIN_DOCSTRING - 1)}"""\n'
        f'def again():\n    """{prose("torch")}"""\n'
    )
    expected = ["First line.", f"  {'x' * 200}\nLast.", "y" * builtin.MIN_DOCSTRING, prose("torch")]
    assert builtin_text().content.split("\n\n") == expected


def test_tests_installed_packages_and_vendored_code_are_left_out(sources: Sources) -> None:
    left_out = ["site-packages", "dist-packages", "test", "deep/tests", "testing", "idlelib", "lib2to3", "_vendor"]
    for folder, name in itertools.product(sources, [*left_out, "x/vendored_templates", "contest", "package"]):
        (folder / name).mkdir(parents=True)
        (folder / name / "tests.py").write_text(f'"""{prose(f"{folder.name}/{name}")}"""')
        (folder / "about_vendors.py").write_text(f'"""{prose(f"{folder.name} vendors")}"""')  # only folders are
    kept = [
        "lib vendors",
        "lib/contest",
        "lib/package",
        "zoo",
        "torch",
        "torch vendors",
        "torch/contest",
        "torch/package",
    ]
    assert topics() == kept


def test_files_that_cannot_be_parsed_are_passed_over_in_silence(sources: Sources) -> None:
    library, _ = sources
    doc = prose("lost").encode()
    (library / "a_syntax.py").write_bytes(b'"""' + doc + b'"""\nprint "old"')
    (library / "b_null.py").write_bytes(b'"""' + doc + b'"""\0')
    (library / "c_bytes.py").write_bytes(b'"""' + doc + b'\xff"""')
    (library / "d_coding.py").write_bytes(b'# coding: no-such\n"""' + doc + b'"""')
    (library / "e_folder.py").mkdir()
    (library / "f_nowhere.py").symlink_to("nowhere")
    (library / "g_escape.py").write_bytes(b'"""' + prose("escape").encode() + b'"""\n"\\d"')
    (library / "h_latin.py").write_bytes(
        '# coding: latin-1\nclass ü:\n    """'.encode("latin-1") + prose("h").encode() + b'"""'
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert topics() == ["escape", "h", "zoo", "torch"]


def test_a_docstring_that_utf8_cannot_hold_is_the_same_text_cached_or_not(sources: Sources) -> None:
    library, _ = sources
    (library / "zoo.py").write_text(f'"""{prose("zoo")} \\ud800\\r\\n."""')
    made = builtin_text()
    assert "The end. ?\r\n.\n\nAbout torch" in made.content
    assert builtin_text() == made


def test_the_text_is_cached_under_the_versions_it_comes_from(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.99.1")
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"torch": "2.99.0+cpu"}[name])
    made = builtin_text()
    assert made.name == "builtin (docstrings of Python 3.99.1 and torch 2.99.0+cpu)"
    assert made.sha256 == hashlib.sha256(made.content.encode()).hexdigest()
    (cached,) = (tmp_path / "cache").iterdir()
    assert cached.name == f"builtin-python3.99.1-torch2.99.0+cpu-format{builtin.BUILTIN_FORMAT}.json"
    assert sums.read_sealed(cached)["docstrings"] == builtin.docstrings()

    for folder in sources:  # from here on the sources say something else
        (folder / "new.py").write_text(f'"""{prose("new")}"""')
    assert builtin_text() == made
    cached.write_bytes(b"\xff damaged")
    assert "new" in topics() and "\n\n".join(sums.read_sealed(cached)["docstrings"]) == builtin_text().content
    for damaged in (
        cached.read_text().replace("More of it", "Less of it", 1),
        "",
        cached.read_text()[:-2],
        "[]",
        "{}",
        "[1]",
        "null",
    ):
        cached.write_text(damaged)
        assert "new" in topics()
    for name, value in {
        "platform.python_version": lambda: "3.99.2",
        "importlib.metadata.version": lambda name: "2.99.1",
        "swlottery.data.builtin.BUILTIN_FORMAT": builtin.BUILTIN_FORMAT + 1,
    }.items():
        cached.write_text("stale")
        with monkeypatch.context() as changed:
            changed.setattr(name, value)
            assert "new" in topics()


def test_a_cache_that_cannot_be_written_is_no_error(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "file" / "cache"))
    assert topics() == ["zoo", "torch"]


def test_a_write_cut_off_leaves_nothing_behind(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: str, encoding: str, errors: str) -> int:
        with path.open("w", encoding=encoding) as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert topics() == ["zoo", "torch"]
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("SWLOTTERY_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.setenv("SWLOTTERY_CACHE", "")
    assert cache_folder() == Path("/xdg/swlottery")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("SWLOTTERY_CACHE")
    assert cache_folder() == Path("/home/me/.cache/swlottery")


MEETING = """
import json, os, time
from swlottery.runtime import files

folder = files.cache_folder()
replace = os.replace

def meet(source, target):  # both jobs have written all they have to write, and none has put it in place
    deadline = time.monotonic() + 60
    while len(files := sorted(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    sizes = [file.stat().st_size for file in files]
    time.sleep(0.5)
    replace(source, target)
    print(json.dumps([str(target) in map(str, files), sizes]))

os.replace = meet
files.write_text(folder / "text.txt", "x" * 1000)
"""


def test_two_processes_may_write_the_cache_at_once(tmp_path: Path) -> None:
    processes = [python(MEETING), python(MEETING)]
    assert [answer(process) for process in processes] == [[False, [1000, 1000]]] * 2
    (stored,) = (tmp_path / "cache").iterdir()
    assert stored.name == "text.txt" and stored.read_bytes() == b"x" * 1000


BUILTIN = """
import itertools, json, sys
from swlottery.data import builtin
from swlottery.data.evaluation import builtin_text
every, modules = EVERY, builtin._modules
builtin._modules = lambda: itertools.islice(modules(), 0, None, every)
text = builtin_text()
print(json.dumps([text.name, text.sha256, len(text.content), "torch" in sys.modules]))
"""


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_the_real_text_is_the_same_in_two_processes_and_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """Of every 16th module; and of all of them, which takes 16 times as long."""
    caches = [str(tmp_path / "one"), str(tmp_path / "two")]
    processes = [
        python(BUILTIN.replace("EVERY", str(every)), SWLOTTERY_CACHE=caches[i], PYTHONHASHSEED=str(i)) for i in range(2)
    ]
    one, two = (answer(process) for process in processes)
    assert one == two
    name, sha256, characters, torch_imported = one
    assert not torch_imported
    assert characters > 2_000_000 / every
    monkeypatch.setenv("SWLOTTERY_CACHE", caches[0])
    monkeypatch.setattr(builtin, "_modules", lambda: pytest.fail("not read from the cache"))
    cached = read_text("builtin")
    assert (cached.name, cached.sha256, len(cached.content)) == (name, sha256, characters)
    assert hashlib.sha256(cached.content.encode()).hexdigest() == sha256
