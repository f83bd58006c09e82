"""Which precision and device a machine is found to have; a GPU that was given and cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swlottery.cli import main
from swlottery.errors import BadInput
from swlottery.runtime import hardware

CPU = torch.device("cpu")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that torch can use")


@pytest.fixture
def nothing_given(monkeypatch, tmp_path):
    """No variable speaks of a GPU, and no nvidia-smi is there; returns a folder on the PATH."""
    for name in ("CUDA_VISIBLE_DEVICES", *hardware.SLURM_GPUS):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def driver(folder: Path, says: str, code: int = 0) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
    tool.chmod(0o755)


TABLE = "| NVIDIA-SMI 470.82.01    Driver Version: 470.82.01    CUDA Version: 11.4     |"


@pytest.mark.parametrize(
    ("mkldnn", "units", "capability", "isa", "fast"),
    [
        (True, {"avx512_bf16"}, "AVX512", None, True),
        (True, {"amx_tile"}, "AVX512", None, True),
        (True, set(), "AVX512", None, False),  # oneDNN says yes to what it emulates
        (True, {"avx512_bf16"}, "AVX512", "AVX512_CORE", False),
        (True, {"avx512_bf16"}, "AVX512", "avx512_core_bf16", True),
        (True, {"avx512_bf16"}, "AVX2", None, False),
        (False, {"avx512_bf16"}, "AVX512", None, False),
        (True, set(), "SVE256", None, True),  # ARM: oneDNN speaks of units alone
        (False, set(), "SVE256", None, False),
    ],
)
def test_bfloat16_where_a_cpu_has_units_for_it(monkeypatch, mkldnn, units, capability, isa, fast):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    monkeypatch.setattr(hardware, "_torch_says", lambda name: any(unit in name for unit in units))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert hardware.bfloat16(CPU)[0] is fast
    assert hardware.precision("auto", CPU)[0] == ("bfloat16" if fast else "float32")
    assert hardware.precision("float32", CPU) == ("float32", "asked for")


def test_bfloat16_asked_for_where_it_is_slow_says_how_slow(monkeypatch):
    monkeypatch.setattr(hardware, "bfloat16", lambda device: (False, "this CPU has no bfloat16 units"))
    monkeypatch.setattr(hardware, "slowdown", lambda device: 20.31)
    assert hardware.precision("bfloat16", CPU) == (
        "bfloat16",
        "asked for; this CPU has no bfloat16 units, a matrix product takes 20.3 times as long as in float32",
    )


def test_the_slowdown_is_a_ratio():
    assert 0.01 < hardware.slowdown(CPU) < 1000


def test_a_processor_that_is_told_to_be_an_old_one():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": "src"}
    code = "import torch; from swlottery.runtime import hardware as h; print(h.precision('auto', torch.device('cpu')))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=root)
    assert "float32" in done.stdout, done.stderr


@needs_no_gpu
@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"])
def test_a_gpu_that_was_given_and_cannot_be_used_is_one_line(nothing_given, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    driver(nothing_given, TABLE)
    with pytest.raises(BadInput) as refused:
        hardware.pick_device("auto")
    for part in (
        f"{variable}=2",
        "driver 470.82.01",
        "CUDA up to 11.4",
        torch.__version__,
        "SWLOTTERY_PIP",
        "--device cpu",
    ):
        assert part in str(refused.value)
    with pytest.raises(BadInput, match=f"{variable}=2"):
        hardware.pick_device("cuda")
    assert hardware.pick_device("cpu") == CPU


@needs_no_gpu
def test_a_driver_alone_says_that_there_is_a_gpu(nothing_given):
    assert hardware.pick_device("auto") == CPU
    driver(nothing_given, "No devices were found")
    assert hardware.pick_device("auto") == CPU
    driver(nothing_given, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver", code=9)
    assert hardware.pick_device("auto") == CPU
    driver(nothing_given, "GPU 0: NVIDIA A100 (UUID: GPU-1)")
    with pytest.raises(BadInput, match="a driver that answers"):
        hardware.pick_device("auto")


@needs_no_gpu
@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_no_gpu_where_none_may_be_seen(nothing_given, monkeypatch, value):
    driver(nothing_given, TABLE)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert hardware.pick_device("auto") == CPU


@needs_no_gpu
@pytest.mark.parametrize("command", [["find", "--model", "MODEL"], ["train", "--model", "MODEL", "--data", "TEXT"]])
def test_a_command_on_such_a_machine_writes_nothing(nothing_given, monkeypatch, tmp_path, tiny_gpt2, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    driver(nothing_given, TABLE)
    text = tmp_path / "text.txt"
    text.write_text("a text " * 500)
    before = sorted(tmp_path.rglob("*"))
    given = {"MODEL": str(tiny_gpt2), "TEXT": str(text)}
    assert main([given.get(word, word) for word in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "driver 470.82.01" in line and "--device cpu" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_compiling_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BadInput, match="needs a compiler"):
        hardware.check_compiler(CPU)
    (tmp_path / "g++").write_text("#!/bin/sh\n")
    (tmp_path / "g++").chmod(0o755)
    hardware.check_compiler(CPU)
