"""Selection against a full sort by (score, hash), and that nothing but weights, masks, count and seed decides."""

import hashlib
import math
import random
from decimal import Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from swlottery.errors import BadInput
from swlottery.lottery import keys as keying
from swlottery.lottery import select as selecting
from swlottery.lottery.criteria import CRITERIA, Criterion
from swlottery.lottery.keys import Key, chunks, position_hash
from swlottery.lottery.prune import prune_count
from swlottery.lottery.select import select, shares

GLOBAL, LAYER, RANDOM = (CRITERIA[name] for name in ("global-magnitude", "layer-magnitude", "random"))
FULL = (1 << 64) - 1


def plain_hash(place: int, number: int, seed: int) -> int:
    """Splitmix64 in Python's own integers, as a signed number."""
    z = (place + (number << 40) + seed * 0x9E3779B97F4A7C15) & FULL
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & FULL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & FULL
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z


def sorted_keys(weights, masks, seed, criterion=GLOBAL, protected=None):
    """(score, hash, tensor, place) of everything that may be removed, from the first to go to the last."""
    keys = []
    for number, (name, mask) in enumerate(masks.items()):
        scores = criterion.scores(weights[name]).flatten().double().tolist()
        for place, (score, remains) in enumerate(zip(scores, mask.flatten().tolist(), strict=True)):
            if remains and place not in (protected or {}).get(name, ()):
                keys.append((score, plain_hash(place, number, seed), name, place))
    return sorted(keys)


def without(masks, keys):
    new = {name: mask.clone(memory_format=torch.contiguous_format) for name, mask in masks.items()}
    for _, _, name, place in keys:
        new[name].view(-1)[place] = False
    return new


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name in got:
        assert got[name].dtype is torch.bool and got[name].shape == expected[name].shape
        assert torch.equal(got[name], expected[name]), name


def largest_gone(weights, masks, new):
    """The largest |w| that a selection took; None where it took none."""
    gone = [weights[name].abs()[mask & ~new[name]].double() for name, mask in masks.items()]
    return max((float(sizes.max()) for sizes in gone if len(sizes)), default=None)


def network(seed, tensors, dtype=torch.float32, largest=40, remaining=0.8, levels=None):
    """Random tensors of one to three dimensions, some transposed or strided, and masks; ``levels``: so many distinct
    magnitudes, zero among them."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    weights, masks = {}, {}
    for i in range(tensors):
        shape = [draw.randint(1, largest)] + [draw.randint(1, 6) for _ in range(draw.randint(0, 2))]
        values = torch.randn(shape, generator=generator)
        if levels:
            values = torch.randint(0, levels, shape, generator=generator) * values.sign() / 8
        kind = draw.choice(["plain", "transposed", "strided"])
        if kind == "transposed":
            values = values.permute(*reversed(range(values.dim())))
        elif kind == "strided":
            values = values.repeat_interleave(2, dim=-1)[..., ::2]
        weights[f"w{i}"] = values.to(dtype)
        masks[f"w{i}"] = torch.rand(values.shape, generator=generator) < remaining
    return weights, masks


@pytest.fixture
def pieces(monkeypatch):
    """Set how many weights are looked at at once, and how wide the first bracket is."""

    def set_to(chunk=None, sigmas=None):
        if chunk is not None:
            monkeypatch.setattr(keying, "CHUNK", chunk)
        if sigmas is not None:
            monkeypatch.setattr(selecting, "SIGMAS", sigmas)

    return set_to


@given(
    seed=st.integers(0, 10**6),
    tensors=st.integers(1, 50),
    share=st.floats(0, 1),
    levels=st.sampled_from([None, None, 1, 2, 5]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    chunk=st.sampled_from([8, 13, 64, 1 << 18]),
    sigmas=st.sampled_from([0.0001, 0.5, 4.0]),
    criterion=st.sampled_from([GLOBAL, RANDOM]),
)
@settings(max_examples=60, deadline=None)
def test_it_equals_a_full_sort(seed, tensors, share, levels, dtype, chunk, sigmas, criterion):
    weights, masks = network(seed, tensors, dtype, largest=15, levels=levels)
    before = {name: mask.clone() for name, mask in masks.items()}
    keys = sorted_keys(weights, masks, seed, criterion)
    count = int(share * len(keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keying, "CHUNK", chunk)
        patch.setattr(selecting, "SIGMAS", sigmas)
        got = select(weights, masks, count, seed, criterion)
    assert_same(got, without(masks, keys[:count]))
    assert_same(masks, before)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sigmas", [0.01, 4.0])
def test_larger_tensors_are_sampled_and_equal_a_full_sort(dtype, levels, sigmas, pieces):
    """Here the sample is one in 16; with the narrow bracket the rank is outside it at first."""
    weights, masks = network(7, 20, dtype, largest=2000, levels=levels)
    pieces(chunk=512, sigmas=sigmas)
    keys = sorted_keys(weights, masks, 3)
    assert len(keys) > 2 * 10**4
    for count in (1, len(keys) // 5, len(keys) - 1):
        assert_same(select(weights, masks, count, 3), without(masks, keys[:count]))


def test_a_bracket_that_misses_is_widened_until_it_holds_the_rank(pieces, monkeypatch):
    weights, masks = network(1, 3, largest=2000)
    expected = select(weights, masks, 1000, 0)
    widths = []
    real = selecting._bracket

    def missing(ranked, share, keys, sigmas):
        widths.append(sigmas)
        low, high = real(ranked, share, keys, sigmas)
        wrong = Key(high.score * 2, 0)
        return (low, high) if len(widths) > 2 else ((low, low), (wrong, wrong))[len(widths) - 1]

    monkeypatch.setattr(selecting, "_bracket", missing)
    got = select(weights, masks, 1000, 0)
    assert widths == [4.0, 16.0, 64.0]
    assert_same(got, expected)


def test_an_ordinary_selection_looks_at_few_keys_in_one_pass(monkeypatch):
    """Also when all scores are equal: what is gathered stays a small part, and the pass is not repeated."""
    draw = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(1000, 1000, generator=draw), "b": torch.randn(300_000, generator=draw)}
    masks = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()}
    gathered = []
    real = selecting._Inside.remove_lowest
    monkeypatch.setattr(
        selecting._Inside, "remove_lowest", lambda self, count: gathered.append(len(self)) or real(self, count)
    )
    scanned = []
    scan = selecting._scan
    monkeypatch.setattr(selecting, "_scan", lambda one, *rest: scanned.append(one.name) or scan(one, *rest))
    for criterion in (GLOBAL, RANDOM):
        select(weights, masks, 260_000, 0, criterion)
    assert scanned == ["a", "b"] * 2
    assert len(gathered) == 2 and max(gathered) < 0.04 * 1.3e6


@pytest.mark.parametrize("chunk", [1, 7, 8, 100, 4096])
def test_the_chunk_size_changes_nothing(chunk, pieces):
    for levels in (None, 2):
        weights, masks = network(11, 8, levels=levels)
        expected = select(weights, masks, 150, 5)
        pieces(chunk=chunk)
        got = select(weights, masks, 150, 5)
        assert_same(got, expected)
        pieces(chunk=1 << 18)


@pytest.mark.parametrize("chunk", [1, 3, 10, 24, 1000])
def test_chunks_are_in_row_major_order_and_small(chunk, pieces):
    pieces(chunk=chunk)
    base = torch.arange(2 * 3 * 4.0)
    for tensor in [
        base,
        base[::2],
        base[5],
        base.view(4, 6).t(),
        base.view(2, 3, 4).permute(2, 0, 1),
        base.view(4, 6)[:, ::3],
        torch.zeros(3, 0),
        torch.arange(5.0).expand(3, 5),
    ]:
        parts = list(chunks(tensor))
        assert [start for start, _ in parts] == [sum(len(p) for _, p in parts[:i]) for i in range(len(parts))]
        assert all(0 < len(part) <= chunk for _, part in parts)
        assert torch.equal(torch.cat([part for _, part in parts] or [torch.zeros(0)]), tensor.flatten())


def test_the_hash_is_splitmix64_of_number_place_and_seed():
    places = torch.tensor([0, 1, 2, 77, (1 << 40) - 1])
    for number, seed in [(0, 0), (1, 0), (0, 1), (49, 12345), (3, -1), (1 << 20, 1 << 60)]:
        expected = [plain_hash(place, number, seed) for place in places.tolist()]
        assert position_hash(places + (number << 40), seed).tolist() == expected
    assert plain_hash(0, 0, 1) == 0xE220A8397B1DCDAF - (1 << 64), "the published first output for seed 0"


def test_ties_fall_evenly_and_by_the_seed():
    """All tied: a tenth goes, of the early places as of the late, of one tensor as of the other."""
    weights = {name: torch.full((100, 100), 0.5) for name in "ab"}
    masks = {name: torch.ones(100, 100, dtype=torch.bool) for name in "ab"}
    got, again, other = (select(weights, masks, 2000, seed) for seed in (1, 1, 2))
    assert_same(got, again)
    assert not torch.equal(got["a"], other["a"])
    for part in (got["a"][:50], got["a"][50:], got["b"][:50], got["b"][50:]):
        assert abs(int((~part).sum()) - 500) < 100  # 4.7 standard deviations
    assert not torch.equal(got["a"], got["b"])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_none_and_all(criterion):
    weights, masks = network(2, 5)
    total = sum(int(mask.sum()) for mask in masks.values())
    none = select(weights, masks, 0, 0, CRITERIA[criterion])
    assert_same(none, masks)
    assert all(none[name].data_ptr() != masks[name].data_ptr() for name in masks), "new masks, not the old ones"
    everything = select(weights, masks, total, 0, CRITERIA[criterion])
    assert not any(mask.any() for mask in everything.values())
    for count in (-1, total + 1):
        with pytest.raises(ValueError, match=str(total)):
            select(weights, masks, count, 0, CRITERIA[criterion])


def test_prunes_one_after_another_equal_one():
    """What has gone stays gone and is ranked no more, so the lowest are the same in two steps as in one."""
    weights, masks = network(5, 6, levels=6, remaining=1.0)
    for name in masks:
        weights[name] = weights[name].float() * 2
    first = select(weights, masks, 20, 9)
    for name in masks:  # as the loop has it: a masked weight is zero
        weights[name] = weights[name] * first[name]
    assert sum(int((weights[name] == 0).sum()) for name in masks) > 20, "some zeros are not masked"
    second = select(weights, first, 137, 9)
    original, _ = network(5, 6, levels=6, remaining=1.0)
    assert_same(second, select(original, masks, 157, 9))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("criterion", ["global-magnitude", "layer-magnitude"])
def test_scores_that_are_not_finite_are_refused_where_they_remain(bad, dtype, criterion):
    draw = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(60, 50, generator=draw).to(dtype) for name in ("fine", "broken")}
    masks = {name: torch.ones(60, 50, dtype=torch.bool) for name in weights}
    expected = select(weights, {**masks, "broken": masks["broken"].index_fill(0, torch.tensor([17]), False)}, 500, 0)
    weights["broken"][17, 3] = bad
    with pytest.raises(BadInput, match="broken") as error:
        select(weights, masks, 500, 0, CRITERIA[criterion])
    assert "\n" not in str(error.value)
    masks["broken"][17] = False
    assert_same(select(weights, masks, 500, 0), expected)


def test_large_finite_scores_whose_sum_overflows_are_fine():
    weights = {"a": torch.full((100,), 3e38), "b": torch.full((100,), 6e4, dtype=torch.float16)}
    masks = {name: torch.ones(100, dtype=torch.bool) for name in weights}
    got = select(weights, masks, 100, 0)
    assert got["a"].all() and not got["b"].any()


def test_types_are_compared_without_rounding():
    """1 + 2⁻¹⁰ is 1 in bfloat16, and 70000 infinite in float16."""
    weights = {
        "b": torch.tensor([1.0, 70144.0]).bfloat16(),
        "f": torch.tensor([1 + 2**-10, 1 - 2**-10]),
        "h": torch.tensor([1 + 2**-9]).half(),
    }
    masks = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()}
    order = []
    for count in range(1, 6):
        order.append(largest_gone(weights, masks, select(weights, masks, count, 0)))
    assert order == [1 - 2**-10, 1.0, 1 + 2**-10, 1 + 2**-9, 70144.0]


@given(seed=st.integers(0, 10**6), tensors=st.integers(1, 20), share=st.floats(0, 0.9), chunk=st.sampled_from([7, 64]))
@settings(max_examples=40, deadline=None)
def test_protected_places_stay_and_the_count_still_goes(seed, tensors, share, chunk):
    weights, masks = network(seed, tensors, levels=4)
    draw = random.Random(seed)
    names = draw.sample(list(masks), draw.randint(1, tensors))
    protected = {name: [draw.randrange(masks[name].numel()) for _ in range(3)] for name in names}
    keys = sorted_keys(weights, masks, seed, protected=protected)
    count = int(share * len(keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keying, "CHUNK", chunk)
        got = select(weights, masks, count, seed, protected={name: torch.tensor(p) for name, p in protected.items()})
    assert_same(got, without(masks, keys[:count]))
    with pytest.raises(ValueError):
        select(weights, masks, len(keys) + 1, seed, protected=protected)


def test_the_smallest_weight_protected_stays_through_a_widened_bracket(pieces):
    weights = {"a": torch.arange(1.0, 10_001)}
    masks = {"a": torch.ones(10_000, dtype=torch.bool)}
    pieces(sigmas=1e-6)
    got = select(weights, masks, 4000, 0, protected={"a": torch.tensor([0, 5000])})["a"]
    assert got.nonzero().flatten().tolist() == [0, *range(4001, 10_000)]


@given(seed=st.integers(0, 10**6), tensors=st.integers(1, 20), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_by_tensor_each_gives_its_share(seed, tensors, share):
    weights, masks = network(seed, tensors, levels=4)
    free = {name: int(mask.sum()) for name, mask in masks.items()}
    count = int(share * sum(free.values()))
    got = select(weights, masks, count, seed, LAYER)
    keys = sorted_keys(weights, masks, seed)
    gone = []
    for name, part in zip(masks, shares(list(free.values()), count), strict=True):
        own = [key for key in keys if key[2] == name]
        assert abs(part - share * free[name]) < 1.5 + share
        gone += own[:part]
    assert len(gone) == count
    assert_same(got, without(masks, gone))


def test_shares_by_hand():
    assert shares([10, 10, 10], 10) == [4, 3, 3], "equal remainders: the first"
    assert shares([5, 7, 9], 7) == [2, 2, 3], "1.67, 2.33 and 3: the largest remainder"
    assert shares([1, 1, 98], 50) == [1, 0, 49]
    assert shares([3, 0, 2], 5) == [3, 0, 2]
    assert shares([], 0) == [] and shares([0, 0], 0) == [0, 0]


@given(free=st.lists(st.integers(0, 10**12), max_size=30), share=st.floats(0, 1))
def test_shares_sum_to_the_count_and_are_floors_or_one_more(free, share):
    count = min(sum(free), int(share * sum(free)))
    parts = shares(free, count)
    assert sum(parts) == count
    for part, size in zip(parts, free, strict=True):
        floor = count * size // sum(free) if size else 0
        assert part in (floor, floor + 1) and part <= size


@pytest.mark.parametrize(
    ("remaining", "rate", "count"),
    [
        (100, 0.29, 29),
        (100, 0.57, 57),
        (100, 0.58, 58),
        (1000, 0.1, 100),
        (7, 0.2, 1),
        (10, "0.2", 2),
        (10**12 + 1, Decimal("0.1"), 10**11),
        (124_373_760, 0.2, 24_874_752),
        (99_499_008, 0.2, 19_899_801),
        (3, 1.0, 3),
        (3, 0.0, 0),
        (10**6, 1e-6, 1),
        (10**6 - 1, 1e-6, 0),
        (10**17, 0.99999999999999999, 10**17),
        (10**12, "0.9999999999999999999999999", 10**12 - 1),
    ],
)
def test_the_floor_is_taken_in_decimals(remaining, rate, count):
    assert prune_count(remaining, rate) == count


@pytest.mark.parametrize("rate", [-0.1, 1.1, 20, "nan", float("inf"), "much"])
def test_a_rate_that_is_none(rate):
    with pytest.raises(ValueError):
        prune_count(100, rate)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="odd"):
        select({"odd": torch.ones(4, 6)}, {"odd": torch.ones(6, 4, dtype=torch.bool)}, 1, 0)


def test_parameters_are_taken_as_they_are_and_left_alone():
    weight = torch.nn.Parameter(torch.randn(30, 20, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    got = select({"w": weight}, {"w": torch.ones(30, 20, dtype=torch.bool)}, 120, 0)["w"]
    assert torch.equal(weight, before) and weight.requires_grad and not got.requires_grad
    assert float(before.abs()[~got].max()) < float(before.abs()[got].min()) and int((~got).sum()) == 120


def test_a_new_criterion_is_one_function():
    """The largest first."""
    weights, masks = network(3, 4)
    largest = Criterion(lambda weights: -weights.abs())
    keys = sorted_keys(weights, masks, 0, largest)
    assert_same(select(weights, masks, 30, 0, largest), without(masks, keys[:30]))
    assert keys[0][0] < keys[-1][0] < 0


def digest_of_masks():
    digest = hashlib.sha256()
    for levels in (None, 2):
        weights, masks = network(21, 5, largest=3000, levels=levels)
        for mask in select(weights, masks, 2000, 4).values():
            digest.update(mask.numpy().tobytes())
    return digest.hexdigest()


def process(rank, port, answers):
    """One of three processes, not all with the same number of threads. The first hands over the bits of all that take
    part, which are one, two and then three."""
    torch.set_num_threads(1 + rank % 2)
    store = distributed.TCPStore("localhost", port, 3, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=3)
    for size in (1, 2, 3):
        group = distributed.new_group(list(range(size)))
        if rank < size:
            everyone = [None] * size
            distributed.all_gather_object(everyone, digest_of_masks(), group=group)
            if rank == 0:
                answers.put(everyone)
    distributed.barrier()
    distributed.destroy_process_group()


def test_one_two_and_three_processes_remove_the_same():
    context = multiprocessing.get_context("forkserver")  # imports torch once, not three times
    context.set_forkserver_preload([__name__])
    store = distributed.TCPStore("localhost", 0, 3, is_master=True, wait_for_workers=False)
    answers = context.Queue()
    started = [context.Process(target=process, args=(rank, store.port, answers), daemon=True) for rank in range(3)]
    for one in started:
        one.start()
    digests = [answers.get(timeout=120) for _ in started]
    for one in started:
        one.join(60)
        assert one.exitcode == 0
    assert [len(each) for each in digests] == [1, 2, 3]
    assert {digest for each in digests for digest in each} == {digest_of_masks()}


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [None, 3])
def test_a_gpu_removes_the_same(levels):
    weights, masks = network(8, 12, largest=5000, levels=levels)
    on_gpu = [{name: tensor.cuda() for name, tensor in tensors.items()} for tensors in (weights, masks)]
    expected = select(weights, masks, 10_000, 0)
    torch.use_deterministic_algorithms(True)
    try:
        got = select(*on_gpu, 10_000, 0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same({name: mask.cpu() for name, mask in got.items()}, expected)
