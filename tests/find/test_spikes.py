"""Spikes: the medians' sieve against a plain computation, and what a pass through a model reports."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planted import random_probe
from swlottery.errors import BadInput
from swlottery.find import forward, spikes
from swlottery.find.activations import activations
from swlottery.find.scan import scan
from swlottery.models.architectures import Roles
from tiny import CONFIGS, VOCABULARY, tiny_model


def plain(output: torch.Tensor, kappa: float) -> set[tuple[int, int]]:
    """Every entry against both its medians, without any sieve."""
    size = output.float().abs()
    bar = torch.maximum(size.median(dim=1, keepdim=True).values, size.median(dim=0, keepdim=True).values)
    return {(t, c) for t, c in (size >= kappa * bar.clamp_min(1e-30)).nonzero().tolist()}


def above_medians(output: torch.Tensor, kappa: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(token, channel, ratio) of the entries at least κ times both medians, by the sieve as a scan uses it."""
    token, channel, over_channels = spikes.above_channels(output, kappa, torch.arange(len(output)))
    ratio = output[token, channel].float().abs() / spikes.larger_median(output, channel, over_channels)
    return token[ratio >= kappa], channel[ratio >= kappa], ratio[ratio >= kappa]


@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 600),
    channels=st.integers(5, 600),
    count=st.integers(0, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(deadline=None, max_examples=60)
def test_the_sieve_loses_nothing(seed, tokens, channels, count, dtype):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(tokens, channels, generator=generator)
    for _ in range(count):
        place = (
            int(torch.randint(tokens, (1,), generator=generator)),
            int(torch.randint(channels, (1,), generator=generator)),
        )
        output[place] = 27.0 * 10 ** float(torch.rand(1, generator=generator))
    output = output.to(dtype)
    token, channel, ratio = above_medians(output, 40.0)
    found = set(zip(token.tolist(), channel.tolist(), strict=True))
    assert found == plain(output, 40.0)
    assert (ratio >= 40).all()


@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(2, 300),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@settings(deadline=None, max_examples=60)
def test_no_token_above_the_stream_is_lost_to_rounding(seed, channels, dtype):
    """Whatever the precision: the peak at the bar itself, on a stream of ordinary or (for float16) of large size."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(40, channels, generator=generator) * 100
    added = torch.randn(40, channels, generator=generator)
    at = torch.randint(channels, (40,), generator=generator)
    bar = spikes.RHO * before.pow(2).mean(dim=1).sqrt()
    added[range(40), at] = bar * (0.9 + 0.2 * torch.rand(40, generator=generator))
    added, after = added.to(dtype), (before + added).to(dtype)
    exact = after.float() - added.float()
    reaches = added.float().abs().amax(dim=1) >= spikes.RHO * exact.pow(2).mean(dim=1).sqrt()
    assert set(reaches.nonzero().flatten().tolist()) <= set(
        spikes.above_stream(added, after, added.abs().amax(dim=1)).tolist()
    )


def test_a_large_token_is_no_spike():
    """One pooled median would fire here: every channel is large at the token."""
    output = torch.randn(50, 100, generator=torch.Generator().manual_seed(0))
    output[7] *= 1000
    assert output.abs().max() > 1000 * output.abs().median()
    assert len(above_medians(output, 40.0)[0]) == 0


def test_a_channel_that_is_always_large_is_no_spike():
    output = torch.randn(50, 100, generator=torch.Generator().manual_seed(0))
    output[:, 7] *= 1000
    assert len(above_medians(output, 40.0)[0]) == 0


@pytest.mark.parametrize(
    ("added", "stream", "arrives"),
    [(8.0, 9.0, True), (8.0, 4.0, True), (8.0, 3.9, False), (8.0, -1.0, False), (-8.0, -5.0, True)],
)
def test_a_spike_arrives_with_its_sign_and_half_its_size(added, stream, arrives):
    assert spikes.Spike(0, 0, 0, added, 50.0, added, 9.0, stream).arrives is arrives


@pytest.mark.parametrize("name", CONFIGS)
def test_the_stream_before_the_addition_is_the_residual_stream(name):
    """What is kept must add up: the block's stream minus what the MLP adds is what the block had before its MLP.

    It is computed here by another way: run again with the down-projection's output forced to zero.
    """
    model = tiny_model(name)
    down = Roles(model).downs[1]
    probe = random_probe(VOCABULARY)
    now = activations(model, [down], probe)[0]
    before = now.stream - now.added
    silence = down.post_norm if down.post_norm is not None else down.output_module
    handle = silence.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    silent = activations(model, [down], probe)[0].stream
    handle.remove()
    torch.testing.assert_close(before, silent, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "mixtral", "falcon-new"])
def test_a_scan_reports_the_largest_entries(name):
    model = tiny_model(name)
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    scans = scan(model, roles.downs, probe)
    for one, now in zip(scans, activations(model, roles.downs, probe), strict=True):
        assert abs(one.output.value) == pytest.approx(float(now.output.abs().max()), rel=1e-5)
        channel = now.output[:, one.output.channel]
        assert float(channel[channel.abs().argmax()]) == pytest.approx(one.output.value, rel=1e-5)
        if not roles.downs[0].experts:
            assert abs(one.input.value) == pytest.approx(float(now.inputs[0].values.abs().max()), rel=1e-5)


def test_an_output_that_is_overwritten_unannounced_is_no_measurement():
    from dataclasses import replace

    model = tiny_model("falcon-new")
    downs = [replace(down, overwritten=False) for down in Roles(model).downs]
    with pytest.raises(AssertionError, match="was overwritten"):
        scan(model, downs, random_probe(VOCABULARY))


def test_padding_changes_nothing():
    """Prompts of unequal length in one batch give what each gives alone; padding takes no part in the medians."""
    from dataclasses import replace

    model = tiny_model("llama")
    roles = Roles(model)
    probe = random_probe(VOCABULARY, prompts=2, length=8)
    valid = probe.valid.clone()
    valid[12:] = False
    short = replace(probe, valid=valid)
    kept = activations(model, roles.downs, short)[2]
    whole = activations(model, roles.downs, probe)[2]
    assert kept.output.shape[0] == 12
    torch.testing.assert_close(kept.output, whole.output[:12], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_stays_behind(fails, monkeypatch):
    model = tiny_model("gemma2")
    roles = Roles(model)

    def count():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    if fails:
        monkeypatch.setattr(forward, "run_body", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            scan(model, roles.downs, random_probe(VOCABULARY))
    else:
        for _ in range(3):
            scan(model, roles.downs, random_probe(VOCABULARY))
    assert count() == 0


def test_an_mlp_that_is_never_called_is_refused():
    model = tiny_model("bloom")
    model.config.pretraining_tp, model.config.slow_but_exact = 2, True
    for block in model.transformer.h:
        block.mlp.pretraining_tp, block.mlp.slow_but_exact = 2, True
    with pytest.raises(BadInput, match="never called"):
        scan(model, Roles(model).downs, random_probe(VOCABULARY))
