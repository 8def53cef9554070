"""Dynamic steerable blocks: constant poses are filters turned beforehand, and every choice is differentiable."""

import math

import pytest
import torch
import torch.nn.functional as F

from spatialkit.models.dynamic import DynamicBlock, SteerableFrame, interpolation_weights, steering_functions
from spatialkit.theory import gaussian_atoms

ORDERS = [(1,), (2,), (0, 1, 2), (1, 3)]


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hermite(m, t):
    return [torch.ones_like(t), t, t**2 - 1, t**3 - 3 * t][m]


def atom_in_plane(dx, dy, sigma, size, angle, normed_on):
    """sigma^m d^m G (R^-1 u) from the formula, at the pixels; the turn is against the clock with y down."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    x, y = axis[None, :], axis[:, None]
    c, s = math.cos(angle), math.sin(angle)
    back_x, back_y = (c * x - s * y) / sigma, (s * x + c * y) / sigma
    g = torch.exp(-(back_x**2 + back_y**2) / 2) / torch.exp(-((axis / normed_on) ** 2) / 2).sum() ** 2
    return (-1) ** (dx + dy) * hermite(dx, back_x) * hermite(dy, back_y) * g


def constant(block, *values):
    """The block with a pose that is the same everywhere: tanh of the values, whatever the image."""
    last = block.pose_network[-2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(values, dtype=last.bias.dtype).atanh())
    return block


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("angle", [0.0, 0.4, -2.5])
def test_a_constant_pose_is_the_steered_filter(orders, angle):
    block = DynamicBlock(2, 3, orders=orders, sigma=1.3).double()
    constant(block, angle / math.pi)
    images, size = draw(2, 2, 17, 14), block.frame.kernels.shape[-1]
    turned = torch.stack([atom_in_plane(dx, dy, 1.3, size, angle, 1.3) for dx, dy in block.frame.atoms])
    kernels = torch.einsum("ock,kyx->ocyx", block.weights.weight.view(3, 2, -1), turned)
    padded = F.pad(images, [size // 2] * 4, mode="replicate")
    expected = F.conv2d(padded, kernels, block.weights.bias)
    torch.testing.assert_close(block(images), expected, atol=1e-10, rtol=0)


def test_a_constant_scale_is_the_wider_filter_within_the_stated_error():
    block = constant(DynamicBlock(1, 1, orders=(1, 2), sigma=(0.8, 1.5)).double(), 0.0, 0.35)
    sigma = math.exp((math.log(0.8 * 1.5) + 0.35 * math.log(1.5 / 0.8)) / 2)
    images = draw(1, 1, 30, 30)
    torch.testing.assert_close(block.poses(images).sigma, torch.full((1, 1, 30, 30), sigma, dtype=torch.float64))
    kernel = torch.tensordot(block.weights.weight.view(-1), gaussian_atoms(block.frame.atoms, sigma, 13), 1)
    expected = F.conv2d(F.pad(images, [6] * 4, mode="replicate"), kernel[None, None], block.weights.bias)
    error = (block(images) - expected).norm() / (expected - block.weights.bias).norm()
    assert 1e-6 < error < 0.044


@pytest.mark.parametrize("nodes, bounds", [(3, (0.023, 0.044)), (5, (0.0011, 0.0023))])
def test_interpolated_atoms_are_within_the_stated_error(nodes, bounds):
    frame = SteerableFrame((1, 2), (0.8, 1.5), nodes)
    size, worst = frame.kernels.shape[-1], torch.zeros(5, dtype=torch.float64)
    at_nodes = torch.stack([gaussian_atoms(frame.atoms, node, size) for node in frame.sigmas])
    for sigma in torch.linspace(math.log(0.8), math.log(1.5), 33, dtype=torch.float64).exp():
        weights = torch.stack(interpolation_weights(sigma, frame.sigmas))
        exact = gaussian_atoms(frame.atoms, float(sigma), size)
        error = (torch.tensordot(weights, at_nodes, 1) - exact).flatten(1).norm(dim=1)
        worst = torch.maximum(worst, error / exact.flatten(1).norm(dim=1))
    for errors, bound in zip(worst.split([2, 3]), bounds, strict=True):
        assert 0.9 * bound < errors.max() < 1.02 * bound


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_steering_functions_form_a_group(order):
    a, b = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.9, dtype=torch.float64)
    matrix = lambda angle: torch.stack([torch.stack(row) for row in steering_functions(order, angle)])  # noqa: E731
    torch.testing.assert_close(matrix(a) @ matrix(b), matrix(a + b))
    torch.testing.assert_close(matrix(0 * a), torch.eye(order + 1, dtype=torch.float64))


def test_steering_functions_are_equation_22():
    theta = torch.tensor([0.3, 2.0], dtype=torch.float64)
    c, s = theta.cos(), theta.sin()
    torch.testing.assert_close(torch.stack(steering_functions(2, theta)[0]), torch.stack([c**2, -2 * c * s, s**2]))
    third = torch.stack([c**3, -3 * c**2 * s, 3 * c * s**2, -(s**3)])
    torch.testing.assert_close(torch.stack(steering_functions(3, theta)[0]), third)


def test_a_quarter_turn_of_image_and_filters_turns_the_answer():
    images = draw(1, 1, 15, 15)
    block = constant(DynamicBlock(1, 2, orders=(1, 2)).double(), 0.0)
    before = block(images)
    after = constant(block, 0.5)(images.rot90(1, (-2, -1)))
    torch.testing.assert_close(after, before.rot90(1, (-2, -1)), atol=1e-12, rtol=0)


def test_poses_differ_by_place_and_are_used_there():
    images = draw(2, 2, 9, 8)
    block = DynamicBlock(2, 2, orders=(1, 2), shared=False).double()
    angle, answer = block.poses(images).angle, block(images)
    assert angle.shape == (2, 2, 9, 8) and angle.abs().max() <= math.pi and angle.std() > 0
    y, x = 4, 5
    responses = block.frame(images)[..., y, x][:, :, 0]  # (N, C, K)
    for n in range(2):
        steered = []
        for channel in range(2):
            start = 0
            for order in (1, 2):
                rows = steering_functions(order, angle[n, channel, y, x])
                part = responses[n, channel, start : start + order + 1]
                steered += [torch.stack(row) @ part for row in rows]
                start += order + 1
        expected = block.weights.weight[:, :, 0, 0] @ torch.stack(steered) + block.weights.bias
        torch.testing.assert_close(answer[n, :, y, x], expected)


@pytest.mark.parametrize("layers, context", [(3, 3), (2, 5), (3, 1)])
def test_the_context_is_the_reach_of_the_pose(layers, context):
    block = DynamicBlock(1, 1, layers=layers, context=context, sigma=0.8).double()
    images = draw(1, 1, 41, 41).requires_grad_()
    block.poses(images).angle[0, 0, 20, 20].backward()
    used = images.grad[0, 0].abs().sum(0).nonzero()
    frame = block.frame.kernels.shape[-1]
    assert block.reach == 1 + layers * (context - 1)
    assert int(used.max() - used.min()) + 1 == frame + block.reach - 1


def test_the_largest_response_to_a_pair_of_gradient_filters_is_the_magnitude():
    images = draw(1, 1, 12, 12)
    block = DynamicBlock(1, 1, pose="maximum", angles=90).double()
    with torch.no_grad():
        block.weights.weight.copy_(torch.tensor([0.6, 0.8], dtype=torch.float64).view(1, 2, 1, 1))
        block.weights.bias.zero_()
    magnitude = block.frame(images)[:, :, 0].norm(dim=2)
    ratio = block(images) / magnitude
    assert ratio.max() <= 1 + 1e-12 and ratio.min() >= math.cos(math.pi / 90)


def test_without_a_pose_it_is_a_static_layer():
    images, static = draw(1, 2, 9, 9), DynamicBlock(2, 3, orders=(1, 2), pose="none").double()
    turned = constant(DynamicBlock(2, 3, orders=(1, 2)).double(), 0.0)
    torch.testing.assert_close(static(images), turned(images))
    assert static.poses(images) == (None, None, None)


def test_free_entries_stand_where_steering_functions_did():
    images, angle = draw(1, 1, 9, 9), 0.3
    free = DynamicBlock(1, 2, orders=(1,), steering=False).double()
    c, s = math.cos(angle), math.sin(angle)
    steered = constant(DynamicBlock(1, 2, orders=(1,)).double(), angle / math.pi)
    torch.testing.assert_close(constant(free, c, -s, s, c)(images), steered(images))
    assert free.poses(images).free.shape == (1, 1, 4, 9, 9) and free.poses(images).angle is None


@pytest.mark.parametrize("choices", [
    pytest.param({"orders": (1, 2)}, id="steered"),
    pytest.param({"orders": (0, 1), "sigma": (0.8, 1.2), "nodes": 2, "shared": False}, id="scaled-per-channel"),
    pytest.param({"steering": False}, id="free"),
    pytest.param({"pose": "maximum", "angles": 5}, id="maximum"),
])  # fmt: skip
def test_gradients(choices):
    block = DynamicBlock(2, 2, hidden=3, layers=2, **choices).double()
    images = draw(1, 2, 4, 3).requires_grad_()
    names, values = zip(*block.named_parameters(), strict=True)
    call = lambda x, *p: torch.func.functional_call(block, dict(zip(names, p, strict=True)), x)  # noqa: E731
    assert torch.autograd.gradcheck(call, (images, *values))


def test_atoms_are_derivatives_of_the_smoothed_image():
    ndimage = pytest.importorskip("scipy.ndimage")
    images, sigma = draw(1, 1, 24, 24), 1.4
    frame = SteerableFrame((0, 1, 2), sigma)
    found = frame(images)[0, 0, 0, :, 10:14, 10:14]
    for atom, (dx, dy) in zip(found, frame.atoms, strict=True):
        smooth = ndimage.gaussian_filter(images[0, 0].numpy(), sigma, order=(dy, dx), truncate=6)
        expected = (-sigma) ** (dx + dy) * torch.from_numpy(smooth)[10:14, 10:14]
        torch.testing.assert_close(atom, expected, atol=2e-2, rtol=0)  # the window ends at 3.5 sigma


def test_seeds_and_precision():
    images = draw(1, 1, 9, 9).float()
    one, same, other = (DynamicBlock(1, 2, seed=seed) for seed in (0, 0, 1))
    assert one(images).equal(same(images)) and not one(images).equal(other(images))
    torch.testing.assert_close(one.double()(images.double()).float(), same(images), atol=1e-5, rtol=1e-5)
    assert not any("kernels" in name for name in one.state_dict())


@pytest.mark.parametrize("arguments, match", [
    ({"pose": "mean"}, "pose must be one of network, maximum, none; got 'mean'"),
    ({"context": 2}, "counts must be at least 1 and the context odd; .*context=2"),
    ({"hidden": 0}, "hidden=0"),
    ({"orders": ()}, "orders must be different numbers from 0 to 4"),
    ({"orders": (1, 1)}, "orders must be different"),
    ({"orders": (5,)}, "orders must be different"),
    ({"sigma": 0.1}, "widths of at least 0.5 px"),
    ({"sigma": (1.5, 0.8)}, "smaller first"),
    ({"sigma": (0.8, 1.5), "nodes": 1}, "2 nodes"),
    ({"sigma": (0.8, 1.5), "pose": "maximum"}, "without a pose network give one width"),
])  # fmt: skip
def test_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        DynamicBlock(1, 1, **arguments)
