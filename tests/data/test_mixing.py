"""Mixup and cutmix: shares that add up, patches that are where they should be, and nothing but (seed, epoch, step) decides."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekd.data.mixing import Mixing, draw_mixing, mix_images, mix_targets


def test_nothing_is_mixed_without_an_alpha() -> None:
    assert draw_mixing(8, (4, 4), 0.0, 0.0, 1, 2, 3) is None


@given(
    count=st.integers(1, 20), height=st.integers(1, 20), width=st.integers(1, 20), cut=st.booleans(),
    alpha=st.floats(0.05, 10), seed=st.integers(0, 1000),
)  # fmt: skip
def test_targets_are_what_the_pixels_are(count: int, height: int, width: int, cut: bool, alpha: float, seed: int) -> None:
    mixing = draw_mixing(count, (height, width), 0.0 if cut else alpha, alpha if cut else 0.0, seed, 0, 0)
    assert mixing is not None
    assert sorted(mixing.partner) == list(range(count))
    # Images of one class each, whose pixels tell the class: what is left of it in the pixels is its share in the target.
    labels = np.arange(count)
    images = np.zeros((count, count, height, width), np.float32)
    images[labels, labels] = 1
    mixed = mix_images(images, images[mixing.partner], mixing)
    np.testing.assert_allclose(mixed.mean((2, 3)), mix_targets(labels, mixing, count), atol=1e-5)


def test_a_draw_repeats_and_depends_on_each_argument() -> None:
    def draw(*place: int) -> Mixing:
        mixing = draw_mixing(16, (8, 8), 1.0, 0.0, *place)
        assert mixing is not None
        return mixing

    first = draw(1, 2, 3)
    assert first.share == draw(1, 2, 3).share
    assert (first.partner == draw(1, 2, 3).partner).all()
    assert len({draw(*place).share for place in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))}) == 4


def test_shares_follow_their_distribution() -> None:
    shares = []
    for step in range(2000):
        mixing = draw_mixing(2, (8, 8), 0.4, 0.0, 0, 0, step)
        assert mixing is not None
        shares.append(mixing.share)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert abs(np.mean(shares) - 0.5) < 0.03
    assert abs(np.var(shares) - 1 / (4 * 1.8)) < 0.01
