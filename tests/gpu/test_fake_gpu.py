"""The GPU that is none refuses what CUDA refuses, takes what CUDA takes, and counts where the host waits."""

from __future__ import annotations

import os

import pytest
import torch

from fake_gpu import NAME, MixedDevices, Waits

HERE = f"{NAME}:0"


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, host: x + host,
        lambda x, host: host * x,
        lambda x, host: host * x.sum(),
        lambda x, host: x.add_(host),
        lambda x, host: x @ host,
        lambda x, host: torch.where(x > 0, x, host),
        lambda x, host: torch.cat([x, host]),
        lambda x, host: torch.stack([x.sum(), host.sum()]),
        lambda x, host: host[x.long()],
        lambda x, host: x.index_select(0, host.long()),
        lambda x, host: torch.bucketize(x, host),
        lambda x, host: torch.nn.functional.linear(x, host[None]),
        lambda x, host: torch.randperm(4, device=HERE, generator=torch.Generator()),
        lambda x, host: x.uniform_(generator=torch.Generator()),
    ],
)
def test_mixed_devices_fail(operation, gpu):
    with pytest.raises(MixedDevices):
        operation(torch.ones(3, device=HERE), torch.ones(3))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, host: x + host.sum(),
        lambda x, host: x[host.long()],
        lambda x, host: x[host > 0],
        lambda x, host: x.copy_(host),
        lambda x, host: host.copy_(x).to(HERE),
        lambda x, host: torch.tensor([1.0, 2], device=HERE),
        lambda x, host: torch.arange(3, device=HERE),
        lambda x, host: torch.randperm(3, device=HERE, generator=torch.Generator(HERE).manual_seed(0)),
        lambda x, host: torch.zeros_like(host, device=HERE),
    ],
)
def test_what_cuda_takes_works_and_stays_on_the_device(operation, gpu):
    assert operation(torch.ones(3, device=HERE), torch.ones(3)).device == torch.device(HERE)


def test_numpy_is_refused(gpu):
    with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
        torch.ones(3, device=HERE).numpy()


def trained(steps: int = 1) -> tuple[torch.nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    first = model[0].weight
    model.to(HERE)
    assert model[0].weight is first and first.device == torch.device(HERE), "a module keeps its parameters"
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(5, 3, device=HERE)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_training_gives_the_numbers_of_the_cpu(gpu, monkeypatch):
    model, _ = trained(3)
    monkeypatch.setattr(f"{__name__}.HERE", "cpu")
    plain, _ = trained(3)
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.detach().cpu(), other.detach())


def test_a_fused_optimiser_with_its_step_on_the_cpu_fails(gpu):
    model, optimizer = trained()
    optimizer.state[model[0].weight]["step"] = torch.tensor(1.0)
    with pytest.raises(MixedDevices, match="_fused_adamw_"):
        optimizer.step()


def test_autocast_multiplies_in_bfloat16_and_norms_in_float32(gpu):
    model, _ = trained()
    with torch.autocast(NAME, torch.bfloat16):
        product = model[0](torch.ones(5, 3, device=HERE))
        normed = model[1](product)
        model[2](normed).float().sum().backward()
    assert (product.dtype, normed.dtype) == (torch.bfloat16, torch.float32)
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_strict_determinism_refuses_what_it_refuses_on_cuda(gpu):
    x = torch.ones(3, 4, device=HERE)
    assert x.median(dim=0).values.tolist() == [1.0] * 4
    torch.use_deterministic_algorithms(True)
    try:
        for refused in (lambda: x.median(dim=0), lambda: x.kthvalue(1), lambda: x.cumsum(0)):
            with pytest.raises(RuntimeError, match="deterministic"):
                refused()
        x.sort()
        (x > 0).cumsum(0)
    finally:
        torch.use_deterministic_algorithms(False)


WAITS = {
    "float(x[0])": (1, 0),
    "bool(x.isfinite().all())": (1, 0),
    "x.tolist()": (1, 0),
    "x.cpu()": (1, 0),
    "x.nonzero()": (1, 0),
    "x.unique()": (1, 0),
    "x[x > 0]": (1, 0),
    "x[x > 0] = 0.0": (0, 0),
    "x[x > 0] = host": (1, 1),
    "x[host.long()]": (0, 1),
    "x.sort(), x[1], x[:2], x.max(), x + 1, torch.where(x > 0, x, 0)": (0, 0),
    "torch.zeros(3, device=x.device), torch.arange(3, device=x.device), x.new_ones(3)": (0, 0),
    "torch.tensor([1, 2], device=x.device)": (0, 1),
    "host.to(x.device)": (0, 1),
    "host.to(x.device, non_blocking=True)": (0, 1),
    "host.pin_memory().to(x.device, non_blocking=True)": (0, 0),
    "host.pin_memory()[1:].to(x.device, non_blocking=True)": (0, 0),
    "host.pin_memory().to(x.device)": (0, 1),
    "host.pin_memory().copy_(x, non_blocking=True)": (0, 0),
}


@pytest.mark.parametrize("line", WAITS)
def test_waits_are_counted_with_the_line_that_waited(line, gpu):
    """As if the line stood in the package; what a test asks for by itself is not counted."""
    values = {"x": torch.ones(3, device=HERE), "host": torch.ones(3).to("cpu"), "torch": torch}
    if line.endswith("= host"):
        line = "x[x > 0] = host.to(x.device)"
    x_before = values["x"].tolist()
    assert x_before == [1.0] * 3 and gpu.count() == 0
    with gpu.inside() as inside:
        exec(compile(line, "/somewhere/swlottery/lottery/here.py", "exec"), values)
    reads, uploads = WAITS.get(line, (1, 1))
    assert (inside.count("read"), inside.count("upload")) == (reads, uploads), str(inside)
    assert {place for _, place in inside.places} <= {"lottery/here.py:1"}
    assert gpu.places == inside.places


def test_other_tests_may_fork_and_find_no_gpu(gpu):
    """Autograd has started no threads for the device: a process that is forked from this one can train."""
    trained()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            (torch.ones(2, requires_grad=True) * 2).sum().backward()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_the_fixture_there_is_no_gpu():
    assert not torch.accelerator.is_available() or torch.cuda.is_available()
    assert not Waits().count()
