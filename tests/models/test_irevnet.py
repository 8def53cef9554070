"""i-RevNets: counts, the block's formula, ways back, and the backward pass without activations against a stored one."""

import copy

import pytest
import torch
import torch.nn.functional as F

import spatialkit as sk
from spatialkit.measure import peak_bytes

SHAPE = (3, 16, 16)
KINDS = {  # bijective, and both kinds of injective
    "bijective": {},
    "zeros": {"width_per_stream": 12},
    "copies": {"width_per_stream": 10, "added": "copies"},
}


def network(blocks=3, kind="bijective", seed=1, **options):
    return sk.IRevNet(SHAPE, 10, (blocks,) * 3, seed=seed, **{**KINDS[kind], **options})


def images(n=8, shape=SHAPE, dtype=torch.float32, seed=0):
    return torch.rand(n, *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def count(model):
    return sum(p.numel() for p in model.parameters())


def settled(model, batches, n=8):
    """In evaluation mode, after the running statistics have met some batches of normal noise."""
    generator = torch.Generator().manual_seed(0)
    model.train()
    with torch.no_grad():
        for _ in range(batches):
            model(torch.randn(n, *model.image_shape, generator=generator, dtype=model.norm.weight.dtype))
    return model.eval()


def inverse_error(model, x):
    with torch.no_grad():
        return float((model.inverse(model.encode(x)) - x).norm() / x.norm())


# ------------------------------------------------------------------------------------------------ architecture


@pytest.mark.parametrize(("name", "kernels", "expected"), [
    ("a", (1, 3, 1), 180_999_016), ("b", (1, 3, 1), 29_201_092), ("b", (3, 3, 3), 125_120_356)
])  # fmt: skip
def test_counts_of_the_printed_networks(name, kernels, expected):
    with torch.device("meta"):
        model = sk.irevnet_imagenet(name, kernels=kernels)
    assert count(model) == expected
    assert model.bijective == (name == "b")
    assert len(model.blocks) == {"a": 18, "b": 100}[name]  # three layers each: 54 (56 with the ends), 300


@pytest.mark.parametrize(("options", "expected"), [
    ({"blocks": (6, 6, 6)}, 285_988),
    ({"blocks": (18, 18, 18)}, 886_768),
    ({"blocks": (18, 18, 18), "downsampling": 1, "width_per_stream": 16}, 6_274_826),
])  # fmt: skip
def test_counts_of_the_networks_for_small_images(options, expected):
    """The last is the released network for CIFAR-10, whose public count is this; the others have half-widths of 6."""
    with torch.device("meta"):
        assert count(sk.IRevNet((3, 32, 32), 10, kernels=(3, 3, 3), **options)) == expected


def test_count_of_a_block_by_hand():
    """n channels in, m = out / 4 between, two numbers for each channel that a normalisation sees."""
    model = network(blocks=1, kernels=(1, 3, 1))
    n, m, out = 6, 6, 24  # the second block has a stride of 2
    assert count(model.blocks[1]) == n * m + 9 * m * m + m * out + 2 * (n + m + m)


def test_a_block_is_its_formula():
    """Unrolled by hand, pixel by pixel, for the block with a stride."""
    model, x = network(blocks=1).double().eval(), images(2, dtype=torch.float64)
    before, after = list(model.path(x))[1:3]
    block = model.blocks[1]
    residual = block.residual(before[:, 6:])
    for c in range(6):
        for dy in range(2):
            for dx in range(2):
                k = (2 * dy + dx) * 6 + c
                torch.testing.assert_close(after[:, k], before[:, 6 + c, dy::2, dx::2], rtol=0, atol=0)
                expected = before[:, c, dy::2, dx::2] + residual[:, k]
                torch.testing.assert_close(after[:, 24 + k], expected, rtol=0, atol=0)


def test_the_first_stream_is_the_upper_row_of_each_square():
    x = images(2)
    first = next(network().path(x))
    torch.testing.assert_close(first[:, :3], x[:, :, 0::2, 0::2])
    torch.testing.assert_close(first[:, 6:9], x[:, :, 1::2, 0::2])


def test_forward_gives_logits_and_a_representation_as_large_as_the_image():
    x = images(2)
    logits, z = network()(x)
    assert logits.shape == (2, 10) and z.shape == (2, 192, 2, 2) and z[0].numel() == x[0].numel()
    assert torch.equal(network(logits_only=True)(x), logits)
    wide = network(kind="zeros")(x)[1]
    assert wide[0].numel() == 2 * x[0].numel()


def test_the_head_averages_then_rectifies_or_the_other_way_round():
    model, x = network().eval(), images(2)
    z = model.norm(model.encode(x))
    torch.testing.assert_close(model(x)[0], model.classifier(z.mean(dim=(2, 3)).relu()))
    model.relu_first = True
    torch.testing.assert_close(model(x)[0], model.classifier(z.relu().mean(dim=(2, 3))))


def test_seeds_alone_decide_the_weights():
    state = torch.get_rng_state()
    first, again, other = (next(network(seed=s).blocks.parameters()) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, other)


# ------------------------------------------------------------------------------------------------ backwards


@pytest.mark.parametrize("kernels", [(1, 3, 1), (3, 3, 3)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_inverse_gives_the_image_back(kind, kernels, dtype, tolerance):
    model = settled(network(kind=kind, kernels=kernels).to(dtype), batches=1)
    assert 0 < inverse_error(model, images(dtype=dtype)) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_exact_streams_give_every_bit_back(kind):
    """Bytes / 255 lie off the grid by up to 2^-33, under half a unit in the last place of most of them."""
    model = settled(network(kind=kind, exact=True), batches=150)
    x = (images() * 255).round() / 256  # multiples of 2^-8
    assert inverse_error(model, x) == 0
    bytes_ = (images() * 255).round()
    assert torch.equal((model.inverse(model.encode(bytes_ / 255)) * 255).round(), bytes_)


def test_paths_meet():
    model, x = settled(network(kind="copies").double(), batches=2), images(2, dtype=torch.float64)
    there = list(model.path(x))
    back = list(model.inverse_path(there[-1]))
    assert len(there) == len(model.blocks) + 1
    for ours, theirs in zip(there, reversed(back), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert torch.equal(model.encode(x), there[-1])


@pytest.mark.parametrize("kernels", [(1, 3, 1), (3, 3, 3)])
def test_appended_zeros_lose_the_image_once_statistics_settle_and_three_remedies_keep_it(kernels):
    """Pixels of unit variance, 150 batches: the variance of a constant stream has fallen to 0.9^150 of its start."""
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(5))
    error = lambda batches=150, **options: inverse_error(settled(network(kernels=kernels, **options), batches), x)  # noqa: E731
    lost = error(kind="zeros")
    assert lost > 1e-3
    assert error(kind="zeros", batches=0) < 1e-6
    assert error(kind="zeros", epsilon=0.1) < 1e-6
    assert error(kind="zeros", epsilon=1e-3) == pytest.approx(lost / 100, rel=0.5)  # two normalisations: 1 / epsilon
    assert error(kind="copies") < 1e-6
    assert error(kind="zeros", exact=True) < 1e-9  # of the grid alone
    assert error() < 1e-6  # bijective


def test_precision_goes_lost_in_the_first_block():
    """Whose normalisations meet a stream of zeros as round-off; behind it the way back is still good."""
    model = settled(network(kind="zeros", kernels=(3, 3, 3)), batches=150)
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        there = list(model.path(x))
        back = list(model.inverse_path(there[-1]))[::-1]
    errors = [float((a - b).norm() / a.norm()) for a, b in zip(there, back, strict=True)]
    assert errors[0] > 1e3 * errors[2]
    first = model.blocks[0].residual[1]
    assert float(first.running_var.max()) < 1e-5 < float(model.blocks[2].residual[0].running_var.min())


def test_of_copies_the_mean_comes_back():
    """The pseudo-inverse: what is off the image of the appending is projected away."""
    model = network(kind="copies").double().eval()
    x = images(2, dtype=torch.float64)
    first = next(model.path(x))
    assert first.shape[1] == 20
    bump = torch.zeros_like(first)
    bump[:, 0] = 1.0  # channel 0 has a second copy, 12
    expected = x.clone()
    expected[:, 0, ::2, ::2] += 0.5
    torch.testing.assert_close(model._merge(first + bump), expected, rtol=0, atol=1e-12)


def test_derivatives_in_both_directions():
    model = settled(sk.IRevNet((3, 8, 8), 10, (1, 1, 1)).double(), batches=2)
    x, v = images(1, (3, 8, 8), torch.float64), images(1, (3, 8, 8), torch.float64, seed=1)
    _, forward = torch.func.jvp(model.encode, (x,), (v,))
    step = 1e-6
    torch.testing.assert_close(
        forward, (model.encode(x + step * v) - model.encode(x - step * v)) / (2 * step), rtol=1e-5, atol=1e-7
    )
    z, back = torch.func.vjp(model.encode, x)
    u = torch.randn_like(z)
    torch.testing.assert_close((u * forward).sum(), (back(u)[0] * v).sum())
    batch = torch.func.vmap(lambda w: torch.func.jvp(model.encode, (x,), (w,))[1])(torch.stack([v, 2 * v]))
    torch.testing.assert_close(batch, torch.stack([forward, 2 * forward]))


# ------------------------------------------------------------------------------------- a step without activations


def gradients(model, x, labels=None, autocast=False):
    """Of a loss on both outputs: for the image, then for the parameters."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, z = model(x)
        loss = F.cross_entropy(logits.float() if autocast else logits, torch.arange(len(x)) % 10) + z.square().mean()
    loss.backward()
    return [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


def both(model, x, **options):
    """Gradients and buffers of the stored and of the recomputed pass, from the same weights."""
    again = copy.deepcopy(model)
    again.recompute = True
    first, second = gradients(model, x, **options), gradients(again, x, **options)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), again.buffers(), strict=True))
    return first, second


def relative(first, second):
    a, b = (torch.cat([g.double().flatten() for g in gs]) for gs in (first, second))
    return float((a - b).norm() / a.norm())


@pytest.mark.parametrize("blocks", [3, 30])
@pytest.mark.parametrize("kind", ["bijective", "copies"])
def test_gradients_agree_in_float64(kind, blocks):
    assert relative(*both(network(blocks, kind).double(), images(dtype=torch.float64))) < 1e-9


@pytest.mark.parametrize("kind", ["bijective", "copies"])
def test_gradients_of_a_shallow_network_agree_in_float32(kind):
    """Deeper ones need exact streams: round-off that flips one ReLU changes a gradient by far more than itself."""
    assert relative(*both(network(3, kind), images())) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("blocks", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_exact_streams_give_the_same_bits_of_gradients(kind, training, blocks):
    model = network(blocks, kind, exact=True).train(training)
    first, second = both(model, images())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_exact_streams_hardly_change_what_is_computed():
    plain, exact = network().double(), network(exact=True).double()
    x = images(dtype=torch.float64)
    for a, b in zip(plain(x), exact(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the grid of 2^-32, times what normalisations make of it
    assert relative(gradients(plain, x), gradients(exact, x)) < 1e-6


@pytest.mark.parametrize("exact", [True, False])
def test_running_statistics_move_once(exact):
    model = network(recompute=True, exact=exact)
    gradients(model, images())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.num_batches_tracked == 1 and module.track_running_stats


def test_gradients_agree_under_autocast_and_with_frozen_parameters():
    model = network(exact=True)
    assert relative(*both(model, images(), autocast=True)) == 0
    for p in model.blocks[2].parameters():
        p.requires_grad_(False)
    first, second = both(model, images())
    assert len(first) == len(list(model.parameters())) + 1 - len(list(model.blocks[2].parameters()))
    assert relative(first, second) == 0


def test_steps_of_an_optimiser_are_the_same():
    """Five steps, to the same bits of all weights."""
    models = network(exact=True, logits_only=True), network(exact=True, logits_only=True, recompute=True)
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for step in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(images(seed=step)), torch.arange(8)).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@pytest.mark.parametrize("exact", [True, False])
def test_live_bytes_do_not_grow_with_depth(exact):
    def bytes_of(blocks, recompute):
        model = network(blocks, exact=exact, recompute=recompute)

        def step():
            model.zero_grad()
            F.cross_entropy(model(images())[0], torch.arange(8)).backward()
            return [p.grad for p in model.parameters()]

        return peak_bytes(step)

    assert bytes_of(12, True) < 1.02 * bytes_of(4, True)
    assert bytes_of(12, False) > 2 * bytes_of(4, False)


def test_without_gradients_nothing_is_recomputed():
    model = network(recompute=True)
    with torch.no_grad():
        assert model(images())[1].grad_fn is None


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(("options", "match"), [
    ({"blocks": (1, 1)}, "blocks and strides must be of one length"),
    ({"blocks": (1, 0, 1)}, "counts must be at least 1"),
    ({"kernels": (1, 2, 1)}, "kernels must be three odd numbers"),
    ({"kernels": (1, 1, 1)}, "kernels of one pixel cannot have a stride"),
    ({"downsampling": 3}, "rows and columns must be multiples of 12"),
    ({"downsampling": 1}, "two streams of 1 cannot hold 3 channels: raise width_per_stream"),
    ({"width_per_stream": 5}, "two streams of 5 cannot hold 12 channels"),
    ({"width_per_stream": 0}, "two streams of 0 cannot hold"),
    ({"epsilon": 0.0}, "epsilon must be positive"),
    ({"epsilon": float("nan")}, "epsilon must be positive"),
    ({"added": "ones"}, "added must be 'zeros' or 'copies'"),
    ({"width_per_stream": 12, "recompute": True}, "recompute loses appended zeros to round-off: take exact=True"),
])  # fmt: skip
def test_refuses_bad_input(options, match):
    with pytest.raises(ValueError, match=match):
        sk.IRevNet((3, 16, 16), 10, **options)


def test_refuses_other_images_modes_and_names():
    with pytest.raises(ValueError, match="images must be N x 3 x 16 x 16"):
        network()(images(shape=(3, 8, 8)))
    with pytest.raises(ValueError, match=r"call eval\(\) on the network first"):
        network().inverse(torch.zeros(1, 192, 2, 2))
    with pytest.raises(ValueError, match="architecture must be 'a' or 'b', got 'c'"):
        sk.irevnet_imagenet("c")
