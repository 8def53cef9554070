"""Block swapping: nothing lost, everything moved, the same for everyone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialkit.data import block_swap, pad_to_multiple, swap


def random_images(N, C, H, W, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (N, C, H, W), dtype=torch.uint8, generator=generator)


def numbered(N, rows, columns):
    """Images whose pixel at place p has the value p; blocks of one pixel."""
    return torch.arange(rows * columns).reshape(1, 1, rows, columns).repeat(N, 1, 1, 1)


def blocks_of(image, block):
    """Blocks of one image (C, H, W), in reading order, as tuples."""
    H, W = image.shape[1:]
    corners = [(y, x) for y in range(0, H, block) for x in range(0, W, block)]
    return [tuple(image[:, y : y + block, x : x + block].flatten().tolist()) for y, x in corners]


def slow_block_swap(images, block, swaps, seed, overwrite):
    """One image, one pair, one block at a time, on pixels."""
    images = pad_to_multiple(images, block).clone()
    N, _, H, W = images.shape
    columns = W // block
    pairs = np.random.Generator(np.random.PCG64(seed)).integers(
        H // block * columns, size=(N, swaps, 2), dtype=np.int64
    )
    for image, of_image in zip(images, pairs, strict=True):
        for pair in of_image:
            corners = [(p // columns * block, p % columns * block) for p in pair]
            a, b = (image[:, y : y + block, x : x + block] for y, x in corners)
            first = a.clone()
            a.copy_(b.clone())
            if not overwrite:
                b.copy_(first)
    return images


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("shape, block", [((5, 1, 6, 6), 2), ((7, 3, 7, 10), 3), ((4, 2, 5, 5), 1)])
def test_equals_the_slow_loop(shape, block, overwrite, monkeypatch):
    monkeypatch.setattr(swap, "_AT_ONCE", 3)  # several portions, the last one short
    images = random_images(*shape)
    fast = block_swap(images, block, swaps=9, seed=4, overwrite=overwrite)
    assert fast.equal(slow_block_swap(images, block, swaps=9, seed=4, overwrite=overwrite))


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(3, 9), st.integers(3, 9)),
    block=st.integers(1, 3),
    swaps=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
def test_an_exchange_keeps_every_block(shape, block, swaps, seed):
    images = random_images(*shape)
    padded, swapped = pad_to_multiple(images, block), block_swap(images, block, swaps, seed)
    for before, after in zip(padded, swapped, strict=True):
        assert sorted(blocks_of(before, block)) == sorted(blocks_of(after, block))


@pytest.mark.parametrize("size, block", [(8, 4), (28, 6), (7, 2)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_swaps_change_nothing_but_the_frame(size, block, overwrite):
    images = random_images(3, 2, size, size)
    swapped = block_swap(images, block, swaps=0, seed=0, overwrite=overwrite)
    assert swapped.equal(pad_to_multiple(images, block))
    assert swapped.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("overwrite", [False, True])
def test_first_images_do_not_depend_on_how_many_follow(overwrite, monkeypatch):
    monkeypatch.setattr(swap, "_AT_ONCE", 4)
    images = random_images(11, 1, 9, 9)
    every = block_swap(images, 3, swaps=7, seed=1, overwrite=overwrite)
    for n in (1, 4, 6):
        assert block_swap(images[:n], 3, swaps=7, seed=1, overwrite=overwrite).equal(every[:n])


def test_seed_decides():
    images = random_images(20, 1, 8, 8)
    same, other = block_swap(images, 2, 10, seed=3), block_swap(images, 2, 10, seed=4)
    assert same.equal(block_swap(images, 2, 10, seed=3))
    assert not same.equal(other)


def test_draws_are_the_same_on_every_platform():
    # Stored once. Should a later NumPy draw other integers from the same stream, this finds it.
    assert block_swap(numbered(1, 3, 3), 1, swaps=5, seed=0).flatten().tolist() == [4, 5, 0, 3, 2, 7, 6, 1, 8]


def test_images_are_swapped_independently():
    swapped = block_swap(numbered(50, 4, 4), 1, swaps=10, seed=0)
    assert len({tuple(image.flatten().tolist()) for image in swapped}) == 50


def expected_lost(n, steps):
    """Blocks lost of n: looking back, k ancestors become k - 1 with probability k (k - 1) / n^2 per step."""
    p = np.eye(n + 1)[n]  # p[k]: probability that the blocks of the result come from k of the input
    k = np.arange(n + 1)
    merge = k * (k - 1) / n**2
    for _ in range(steps):
        p = p * (1 - merge) + np.append((p * merge)[1:], 0)
    return n - p @ k


@pytest.mark.parametrize("swaps, measured", [(10, 5.9), (20, 8.7), (30, 10.1), (100, 13.6)])
def test_overwriting_loses_as_many_blocks_as_theory_and_the_released_code(swaps, measured):
    # Of 16 blocks; `measured` by running the code of the source's first author on some tens of images, whose
    # standard deviation is about 1.1. Ours: a standard error of 1.2 / sqrt(4000) = 0.02.
    swapped = block_swap(numbered(4000, 4, 4), 1, swaps=swaps, seed=0, overwrite=True)
    lost = 16 - np.mean([len(set(image.flatten().tolist())) for image in swapped])
    assert lost == pytest.approx(expected_lost(16, swaps), abs=4 * 0.02)
    assert lost == pytest.approx(measured, abs=0.25)


def test_many_swaps_bring_each_block_to_every_place_equally_often():
    n = 6000
    swapped = block_swap(numbered(n, 3, 4), 1, swaps=200, seed=0).reshape(n, 12)
    counts = torch.stack([(swapped == value).sum(0) for value in range(12)]).double()
    # A permutation matrix has 11^2 free entries; its chi-square, scaled by 11 / 12, has their number as mean.
    chi_square = ((counts - n / 12) ** 2 / (n / 12)).sum() * 11 / 12
    assert float(chi_square) == pytest.approx(121, abs=4 * (2 * 121) ** 0.5)


def test_channels_move_together():
    images = random_images(6, 1, 8, 8).repeat(1, 3, 1, 1)
    swapped = block_swap(images, 2, swaps=10, seed=0)
    assert swapped[:, 0].equal(swapped[:, 1]) and swapped[:, 0].equal(swapped[:, 2])


DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keeps_the_dtype_and_the_input(dtype):
    images = (random_images(3, 2, 7, 8) // 100).to(dtype)
    before = images.clone()
    swapped = block_swap(images, 2, swaps=6, seed=0)
    assert swapped.dtype == dtype and images.equal(before)
    assert swapped.equal(block_swap(before.double(), 2, swaps=6, seed=0).to(dtype))


def test_takes_numpy_arrays_that_cannot_be_written():
    array = random_images(2, 1, 4, 4).numpy()
    array.flags.writeable = False
    assert block_swap(array, 2, 3, seed=0).equal(block_swap(torch.tensor(array), 2, 3, seed=0))
    assert pad_to_multiple(array[..., ::-1], 3).shape == (2, 1, 6, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_and_stays_there():
    images = random_images(5, 3, 28, 28)
    on_gpu = block_swap(images.cuda(), 6, swaps=10, seed=0)
    assert on_gpu.is_cuda and on_gpu.cpu().equal(block_swap(images, 6, swaps=10, seed=0))


@pytest.mark.parametrize(
    "size, block, top, left, padded",
    [
        pytest.param((28, 28), 6, 1, 1, (30, 30), id="even"),
        pytest.param((5, 7), 3, 0, 1, (6, 9), id="odd-below-even-beside"),
        pytest.param((9, 10), 4, 1, 1, (12, 12), id="odd-of-three"),
        pytest.param((8, 12), 4, 0, 0, (8, 12), id="none"),
    ],
)
def test_padding_is_even_and_the_odd_one_is_last(size, block, top, left, padded):
    H, W = size
    images = random_images(2, 3, H, W) | 1  # no zeros inside
    result = pad_to_multiple(images, block)
    assert result.shape[-2:] == padded
    assert result[:, :, top : top + H, left : left + W].equal(images)
    assert int((result != 0).sum()) == images.numel()


def test_images_that_need_no_padding_are_not_copied():
    images = random_images(2, 1, 6, 6)
    assert pad_to_multiple(images, 3) is images


@pytest.mark.parametrize("function", [lambda x, k: block_swap(x, k, 1, 0), pad_to_multiple])
@pytest.mark.parametrize(
    "shape, block, match",
    [
        ((3, 6, 6), 2, r"must be \(N, C, H, W\) and not empty, got \(3, 6, 6\)"),
        ((0, 1, 6, 6), 2, "not empty"),
        ((2, 1, 0, 6), 2, "not empty"),
        ((2, 1, 6, 6), 0, "block of 0 px does not fit"),
        ((2, 1, 6, 6), -2, "block of -2 px does not fit"),
        ((2, 1, 6, 6), 7, r"block of 7 px does not fit images of \(6, 6\) px"),
        ((2, 1, 12, 6), 7, "does not fit"),
    ],
)
def test_refuses_what_has_no_blocks(function, shape, block, match):
    with pytest.raises(ValueError, match=match):
        function(torch.zeros(shape), block)


@pytest.mark.parametrize("swaps, seed", [(-1, 0), (1, -1)])
def test_refuses_negative_numbers(swaps, seed):
    with pytest.raises(ValueError, match="must be 0 or more"):
        block_swap(torch.zeros(1, 1, 4, 4), 2, swaps, seed)


@pytest.mark.parametrize("arguments", [(2.0, 1, 0), (2, 1.5, 0), (2, 1, None)])
def test_refuses_what_is_no_integer(arguments):
    with pytest.raises(TypeError, match="integer"):
        block_swap(torch.zeros(1, 1, 4, 4), *arguments)
