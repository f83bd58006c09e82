"""Reading GGUF files."""

import pytest

from swlottery.models import gguf


def test_while_converting_a_file_is_read_once(monkeypatch):
    package = pytest.importorskip("gguf")
    read = []

    def reader(path):
        read.append(path)
        return object()

    monkeypatch.setattr(package, "GGUFReader", reader)
    with pytest.raises(KeyboardInterrupt), gguf._read_once():
        assert package.GGUFReader("a") is package.GGUFReader("a")
        raise KeyboardInterrupt
    assert read == ["a"] and package.GGUFReader is reader, "afterwards the package is as it was"
