import itertools

import torch

from ortho_lightning import random
from ortho_lightning.data.batches import TensorBatches


def make(n=23, **options):
    x = torch.arange(n)
    return TensorBatches(x, x, batch_size=4, **options)


def rows(batches):
    return [row for x, _, _ in batches for row in x.tolist()]


def test_without_shuffling_every_row_comes_once_in_order():
    batches = make()
    assert len(batches) == 6
    assert rows(batches) == list(range(23))


def test_an_epoch_is_a_permutation_without_the_incomplete_batch():
    batches = make(shuffle=True)
    seen = rows(batches)
    assert len(batches) == 5
    assert len(seen) == len(set(seen)) == 20


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = make(shuffle=True), make(shuffle=True), make(shuffle=True, seed=1)
    torch.manual_seed(99)
    assert rows(first) == rows(again) != rows(other)
    first.sampler.set_epoch(3)
    third = rows(first)
    assert third != rows(again)
    again.set_epoch(3)
    assert rows(again) == third


def test_processes_share_an_epoch_without_overlap():
    parts = [rows(make(24, shuffle=True, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == list(range(24))
    assert len({len(part) for part in parts}) == 1
    parts = [rows(make(23, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == list(range(23))


def test_place_in_the_epoch_is_restored():
    batches = make(shuffle=True)
    whole = rows(batches)
    iterator = iter(batches)
    next(iterator), next(iterator)
    state = batches.state_dict()
    resumed = make(shuffle=True)
    resumed.load_state_dict(state)
    assert rows(resumed) == whole[8:]
    assert rows(resumed) == whole


def test_an_epoch_cut_short_leaves_the_next_one_whole():
    batches = make(shuffle=True)
    whole = rows(batches)
    assert len(list(itertools.islice(batches, 2))) == 2
    assert rows(batches) == whole


def test_counter_numbers_are_uniform_normal_and_stateless():
    index = torch.arange(50_000)
    u = random.uniform(index, 4, 1, 2)
    assert u.min() >= 0
    assert u.max() < 1
    torch.testing.assert_close(u.mean(0), torch.full((4,), 0.5), rtol=0, atol=0.005)
    torch.testing.assert_close(u.var(0), torch.full((4,), 1 / 12), rtol=0.03, atol=0)
    assert (torch.corrcoef(u.T) - torch.eye(4)).abs().max() < 0.02
    assert torch.equal(random.uniform(index[[7, 3]], 4, 1, 2), u[[7, 3]])
    assert not torch.equal(random.uniform(index, 4, 1, 3), u)
    z = random.normal(index, 2, 5)
    assert z.isfinite().all()
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs(z.pow(4).mean() - 3) < 0.1
