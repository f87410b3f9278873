"""The order of an epoch follows from the seed and the epoch; every example comes once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.data.batches import Batches, permutation


def order(batches):
    return [label for _, labels in batches for label in labels.tolist()]


def counted(count, batch_size=7, seed=3):
    """Labels are the examples' places, and so are the images' pixels."""
    places = torch.arange(count)
    return Batches(places.float().reshape(-1, 1, 1, 1), places, batch_size, seed)


def test_the_order_of_an_epoch_follows_from_seed_and_epoch_alone():
    through, straight = counted(50), counted(50, batch_size=64)
    torch.manual_seed(0)
    orders = []
    for epoch in (1, 2, 3):
        through.set_epoch(epoch)
        orders.append(order(through))
    expected = torch.rand(4, generator=torch.Generator().manual_seed(0))
    assert torch.rand(4).equal(expected)  # the global random numbers were left alone
    straight.set_epoch(3)
    assert order(straight) == order(straight) == orders[2]  # no epoch before it, another batch size
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert len({tuple(each) for each in [*orders, range(50)]}) == 4


def test_seed_and_epoch_are_not_interchangeable():
    seen = set()
    for seed in range(5):
        batches = counted(30, seed=seed)
        for epoch in range(1, 6):
            batches.set_epoch(epoch)
            seen.add(tuple(order(batches)))
    assert len(seen) == 25


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), shuffled=st.booleans())
def test_each_example_comes_once_with_its_label_and_the_last_batch_is_short(
    count, batch_size, shuffled
):
    batches = counted(count, batch_size, 0 if shuffled else None)
    sizes = []
    for images, labels in batches:
        assert images.flatten().tolist() == labels.tolist()
        sizes.append(len(labels))
    assert sum(sizes) == count == batches.count
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= batch_size
    assert len(sizes) == len(batches)
    assert sorted(order(batches)) == list(range(count))


def test_without_a_seed_examples_keep_their_order_in_every_epoch():
    batches = counted(20, seed=None)
    for epoch in (1, 2):
        batches.set_epoch(epoch)
        assert order(batches) == list(range(20))


def test_moving_to_a_device_changes_no_order():
    batches = counted(50)
    batches.set_epoch(4)
    assert order(batches.to(torch.device("cpu"))) == order(batches)


def test_a_random_order_is_the_same_in_every_version():
    # The validation split of every recorded run depends on it.
    assert permutation(12, 1998).tolist() == [1, 5, 3, 4, 11, 10, 2, 9, 8, 0, 7, 6]
    assert permutation(12, 0, 1).tolist() == [5, 9, 2, 4, 6, 0, 10, 1, 11, 7, 8, 3]
