import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spatialkit.deform import from_polar, linear_transform, mirror, rotation, scaling, shear
from spatialkit.measure import alignment_residual, best_alignment, layer_alignment
from spatialkit.theory.plane import random_blobs, random_filter

I = torch.eye(2, dtype=torch.float64)  # noqa: E741


@pytest.fixture(scope="module")
def maps():
    return torch.randn(2, 3, 13, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def slow_residual(moved, still, T, radius):
    """The definition, by the package's warp."""
    H, W = still.shape[-2:]
    y, x = torch.meshgrid(torch.arange(H) - (H - 1) / 2, torch.arange(W) - (W - 1) / 2, indexing="ij")
    disc = (x**2 + y**2) <= (radius * min(H, W) / 2) ** 2
    difference = (linear_transform(moved, T) - still)[..., disc]
    return float(difference.norm() / still[..., disc].norm())


@pytest.mark.parametrize("T", [I, rotation(31), scaling(1.4), shear(-0.5), mirror(10)])
@pytest.mark.parametrize("size", [(13, 13), (12, 15)])
def test_agrees_with_the_definition(size, T):
    generator = torch.Generator().manual_seed(1)
    moved, still = (torch.randn(2, 3, *size, dtype=torch.float64, generator=generator) for _ in range(2))
    ours = alignment_residual(moved, still, T, radius=0.8)
    assert float(ours) == pytest.approx(slow_residual(moved, still, T, 0.8), rel=1e-10)


def test_many_maps_are_each_map(maps):
    several = torch.stack([I, rotation(31), mirror(10)])
    one_by_one = [float(alignment_residual(maps.flip(0), maps, T)) for T in several]
    assert alignment_residual(maps.flip(0), maps, several).tolist() == pytest.approx(one_by_one, rel=1e-12)


def turned_layer(kernel, image):
    return F.relu(F.conv2d(image, kernel)), F.relu(F.conv2d(image.rot90(1, (-2, -1)), kernel))


def test_quarter_turn_is_undone_exactly_for_a_symmetrised_kernel_only():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(1, 1, 5, 5, dtype=torch.float64, generator=generator)
    image = torch.randn(1, 1, 33, 33, dtype=torch.float64, generator=generator)
    still, moved = turned_layer(kernel, image)
    assert 0.2 < float(alignment_residual(moved, still, rotation(-90)))
    symmetric = sum(kernel.rot90(k, (-2, -1)) for k in range(4)) / 4
    still, moved = turned_layer(symmetric, image)
    assert float(alignment_residual(moved, still, rotation(-90))) < 1e-12


def test_constant_features_are_undone_by_anything():
    ones = torch.full((2, 3, 16, 16), 0.7, dtype=torch.float64)
    several = torch.stack([rotation(17), scaling(0.3), shear(2.0), mirror()])
    assert float(alignment_residual(ones, ones, several).max()) < 1e-14


def test_features_of_zeros_have_no_size_to_compare_with(maps):
    zeros = torch.zeros_like(maps)
    assert alignment_residual(zeros, zeros, I).isnan()
    assert alignment_residual(maps, zeros, I).isinf()
    with pytest.raises(ValueError, match="nothing to align"):
        best_alignment(zeros, zeros)


def test_does_not_depend_on_units(maps):
    T = rotation(20)
    assert float(alignment_residual(5 * maps, 5 * maps.flip(0), T)) == pytest.approx(
        float(alignment_residual(maps, maps.flip(0), T)), rel=1e-12
    )


@pytest.mark.parametrize(
    "T",
    [rotation(100), scaling(0.8, 1.3), rotation(-50) @ shear(0.5), mirror(25)],
    ids=["turn", "two", "shear", "mirror"],
)
def test_search_finds_the_map_of_transformed_images(T):
    blobs = random_blobs(3, 0, blobs=10, widths=(0.08, 0.15))
    still, moved = (b.pixels(64, 1 / 32)[:, None] for b in (blobs, blobs.transformed(T)))
    stretches = [-0.5, -0.25, 0.0, 0.25, 0.5]
    found = best_alignment(moved, still, angles=range(-180, 180, 20), stretches=stretches, every=4)
    assert torch.allclose(found.matrix, torch.linalg.inv(T), atol=0.02)
    assert found.residual < 0.03
    assert found.steps_from(torch.linalg.inv(T)) <= 1


def by_gradient(moved, still, start):
    """Residual where a quasi-Newton method with exact gradients ends."""
    units = torch.tensor([math.degrees(1), 1, 1, 1], dtype=torch.float64)
    at = (start / units).requires_grad_()
    optimizer = torch.optim.LBFGS([at], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = alignment_residual(moved, still, from_polar(at * units), radius=0.55)
        loss.backward()
        return loss

    optimizer.step(closure)
    return closure().item()


@pytest.mark.parametrize("T", [rotation(40), scaling(1.25), shear(0.4)], ids=["turn", "scaling", "shear"])
def test_search_ends_where_gradient_descent_ends_when_nothing_fits(T):
    kernel, blobs = random_filter(0), random_blobs(2, 0)
    still, moved = (F.relu(b.convolved(kernel).pixels(64, 1 / 32))[:, None] for b in (blobs, blobs.transformed(T)))
    angles, stretches = range(-180, 180, 20), [-0.5, -0.25, 0.0, 0.25, 0.5]
    options = {"stretches": stretches, "mirrored": False, "radius": 0.55}
    found = best_alignment(moved, still, angles=angles, starts=[torch.linalg.inv(T)], **options)
    grid = torch.tensor(list(product(angles, *[stretches] * 3)), dtype=torch.float64)
    best = alignment_residual(moved, still, from_polar(grid), radius=0.55, every=4).argsort()[:4]
    assert found.residual > 0.1
    assert found.residual == pytest.approx(min(by_gradient(moved, still, grid[i]) for i in best), rel=1e-3)


def test_steps_count_the_short_way_round_and_reflections_as_infinite(maps):
    found = best_alignment(
        maps, maps, angles=[-180, -90, 0, 90], stretches=[-0.5, 0.0], mirrored=False, starts=[I], every=1
    )
    assert found.residual < 1e-6 and found.steps_from(I) == pytest.approx(0)
    assert found.steps_from(from_polar([-45.0, 0, 0, 0])) == pytest.approx(0.5)
    assert found.steps_from(from_polar([270.0, 0, 0, 0])) == pytest.approx(1)
    assert found.steps_from(mirror()) == float("inf")


def test_rejects_what_does_not_fit(maps):
    with pytest.raises(ValueError, match="both must be"):
        alignment_residual(maps, maps[:1], I)
    with pytest.raises(ValueError, match=r"matrices must be \(2, 2\)"):
        alignment_residual(maps, maps, torch.zeros(3))
    with pytest.raises(ValueError, match="no pixel"):
        alignment_residual(maps, maps, I, radius=0.1, every=8)
    with pytest.raises(ValueError, match="at least two angles"):
        best_alignment(maps, maps, angles=[0])
    with pytest.raises(ValueError, match="must be invertible"):
        alignment_residual(maps, maps, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"centre must be \(x, y\)"):
        alignment_residual(maps, maps, I, centre=(1.0,))
    with pytest.raises(ValueError, match="got Conv2d"):
        alignment_residual(nn.Conv2d(1, 1, 1), maps, I)
    for value in (torch.nan, torch.inf):
        bad = maps.clone()
        bad[1, 2, 6, 6] = value
        for moved, still in ((bad, maps), (maps, bad)):
            with pytest.raises(ValueError, match="nan or inf"):
                alignment_residual(moved, still, I)
            with pytest.raises(ValueError, match="nan or inf"):
                best_alignment(moved, still)


def test_centred_norm_is_that_of_what_differs_from_the_mean(maps):
    T, lifted = rotation(20), maps + 5
    expected = slow_residual(lifted.flip(0), lifted, T, 0.7)
    y, x = torch.meshgrid(torch.arange(13) - 6.0, torch.arange(13) - 6.0, indexing="ij")
    values = lifted[..., x**2 + y**2 <= (0.7 * 6.5) ** 2]
    expected *= float(values.norm() / (values - values.mean((0, 2), keepdim=True)).norm())
    assert float(alignment_residual(lifted.flip(0), lifted, T, centred=True)) == pytest.approx(expected, rel=1e-10)
    assert float(alignment_residual(lifted.flip(0), lifted, T)) < 0.5 * expected


@pytest.mark.parametrize("pixels", [32, 33])
def test_a_strided_network_turns_about_the_centre_of_its_image(pixels):
    # A pixel of the maps for every second of the image, from the first on. A smooth image is turned by a quarter.
    image = random_blobs(1, 0, blobs=6, widths=(0.25, 0.4)).pixels(pixels, 2 / pixels)[:, None]
    still, moved = image[..., ::2, ::2], linear_transform(image, rotation(90))[..., ::2, ::2]
    w = still.shape[-1]
    off = (pixels - 1) / 4 - (w - 1) / 2
    assert off == (0.25 if pixels == 32 else 0)
    right = float(alignment_residual(moved, still, rotation(-90), centre=(off, off)))
    wrong = float(alignment_residual(moved, still, rotation(-90), centre=(off - 0.25, off + 0.1)))
    assert right < 0.02 and right < wrong / 4  # what bilinear interpolation at half the resolution leaves
    found = best_alignment(moved, still, angles=range(-180, 180, 30), stretches=[-0.2, 0, 0.2], centre=(off, off))
    assert torch.allclose(found.matrix, rotation(-90), atol=0.02)


@pytest.mark.parametrize("side", [5, 7, 8])
def test_the_grid_sees_enough_of_small_maps(side):
    maps = torch.randn(4, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = best_alignment(maps.rot90(1, (-2, -1)), maps, angles=range(-180, 180, 30), stretches=[-0.3, 0, 0.3])
    assert found.residual < 0.01 and torch.allclose(found.matrix, rotation(-90), atol=0.01)


def test_layers_by_name_are_their_feature_maps():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten()).double().eval()
    images = torch.randn(7, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    T, centre = rotation(30), {"1": (0.5, 0.0)}
    for centred in (False, True):
        table = layer_alignment(model, images, T, batch=3, centre=centre, centred=centred)
        for name, stop in (("0", 1), ("1", 2), ("2", 3)):
            moved, still = (model[:stop](x).detach() for x in (linear_transform(images, T), images))
            options = {"centre": centre.get(name, (0.0, 0.0)), "centred": centred}
            for measure, map in (("aligned", torch.linalg.inv(T)), ("not aligned", I)):
                (value,) = table.query(f"layer == '{name}' and measure == '{measure}'")["value"]
                assert value == pytest.approx(float(alignment_residual(moved, still, map, **options)), rel=1e-9)
        assert table[table["layer"] == "3"]["why"].str.contains("no maps").all()
    with pytest.raises(ValueError, match="layer '3' puts out"):
        layer_alignment(model, images, T, ["3"])


def test_shows_progress_if_asked_to(maps, capsys):
    options = {"angles": [0, 90], "stretches": [0.0, 0.1], "every": 1}
    best_alignment(maps, maps, **options)
    assert capsys.readouterr().err == ""
    best_alignment(maps, maps, progress=True, **options)
    assert "best alignment" in capsys.readouterr().err
