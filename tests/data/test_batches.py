"""Order and augmentation: pure functions, against plain loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data.batches import augment, batches, epoch_order, random_bits, steps_per_epoch
from edgekd.recipe import Augment

INDICES = np.arange(100, 200, dtype=np.int64)


def test_order_is_a_permutation_that_changes_with_epoch_and_seed() -> None:
    orders = [epoch_order(INDICES, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == INDICES.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(INDICES, 1, 1).tolist() == orders[3]


@given(st.integers(1, 60), st.integers(0, 5))
def test_batches_from_a_step_are_the_tail_of_all(size: int, first: int) -> None:
    whole = [batch.tolist() for batch in batches(INDICES, size, 3, 2)]
    assert [batch.tolist() for batch in batches(INDICES, size, 3, 2, first)] == whole[first:]
    assert len(whole) == steps_per_epoch(100, size)
    assert len({index for batch in whole for index in batch}) == len(whole) * size


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    assert [len(batch) for batch in batches(INDICES[:5], 64, 0, 0)] == [5]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_augment_is_a_loop_over_images_and_independent_of_the_batch(padding: int, flip: bool, seed: int, epoch: int) -> None:
    images = np.random.default_rng(0).normal(size=(6, 2, 8, 9)).astype(np.float32)
    indices = INDICES[[5, 3, 80, 7, 7, 1]]
    options = Augment(crop_padding=padding, flip=flip)
    together = augment(images, indices, options, seed, epoch)
    for place, index in enumerate(indices):
        alone = augment(images[place : place + 1], indices[place : place + 1], options, seed, epoch)[0]
        assert np.array_equal(together[place], alone)
        one = np.asarray([index])
        padded = np.zeros((2, 8 + 2 * padding, 9 + 2 * padding), np.float32)
        padded[:, padding : padding + 8, padding : padding + 9] = images[place]
        row, column = (int(random_bits(seed, epoch, one, purpose)[0]) % (2 * padding + 1) for purpose in (1, 2))
        expected = padded[:, row : row + 8, column : column + 9]
        if flip and int(random_bits(seed, epoch, one, 3)[0]) >> 63:
            expected = expected[:, :, ::-1]
        assert np.array_equal(alone, expected)


def test_random_bits_are_uniform_and_differ_by_every_argument() -> None:
    many = np.arange(100_000, dtype=np.int64)
    base = random_bits(0, 0, many, 1)
    counts = np.bincount((base % np.uint64(9)).astype(np.int64), minlength=9)
    assert (np.abs(counts - 100_000 / 9) < 5 * np.sqrt(100_000 / 9)).all()
    for other in (random_bits(1, 0, many, 1), random_bits(0, 1, many, 1), random_bits(0, 0, many, 2)):
        assert (base == other).sum() == 0
        assert abs(((base ^ other) >> np.uint64(63)).mean() - 0.5) < 0.01
