import pickle

import pytest
import torch

from spatialkit.deform import Diffeomorphism, ThinPlateSpline, warp
from spatialkit.measure.perturbations import Deformation, Noise, Rotation, Translation, drawn, perturbed

FIELDS = Diffeomorphism(3, 1e-3)


def pictures(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sizes(changed, images):
    return torch.linalg.vector_norm((changed - images).flatten(1), dim=1)


every_kind = pytest.mark.parametrize(
    "perturb",
    [Deformation(FIELDS), Deformation(ThinPlateSpline(3, 2.0)), Noise(norm=2.0), Translation(1, -0.5), Rotation(30)],
    ids=repr,
)


@every_kind
@pytest.mark.parametrize("n, batch", [(37, 1), (37, 16), (37, 7), (90, 64)])
def test_an_image_is_perturbed_alike_in_any_company(perturb, n, batch):
    images = pictures(n, 2, 9, 9)
    whole = perturb(images, range(n), 5)
    starts = range(0, n, batch)
    parts = [perturb(images[i : i + batch], range(i, min(i + batch, n)), 5) for i in starts]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keeps_shape_type_and_the_images_themselves(perturb, dtype):
    images = pictures(3, 1, 8, 8, dtype=dtype)
    before = images.clone()
    changed = perturb(images, range(3), 0)
    assert changed.dtype == dtype and changed.shape == images.shape
    assert torch.equal(images, before) and not torch.equal(changed, images)


@every_kind
def test_can_be_sent_to_another_process(perturb):
    assert pickle.loads(pickle.dumps(perturb)) == perturb


@pytest.mark.parametrize("perturb", [Deformation(FIELDS), Noise(norm=1.0)], ids=repr)
def test_images_and_seeds_have_draws_of_their_own(perturb):
    images = pictures(1, 1, 9, 9).expand(40, 1, 9, 9)
    both = torch.cat([perturb(images, range(40), seed) for seed in (0, 1)])
    assert len(both.flatten(1).unique(dim=0)) == 80


def test_deforms_by_fields_of_the_family():
    images = pictures(16, 3, 12, 12)
    seeds = []
    fields = drawn("deformation", range(16), 7, lambda n, seed: seeds.append(seed) or FIELDS.sample(n, 12, seed))
    assert len(seeds) == 1
    torch.testing.assert_close(Deformation(FIELDS)(images, range(16), 7), warp(images, fields.double()))


def test_noise_has_the_length_of_each_deformation():
    images = pictures(33, 3, 10, 10)
    made = perturbed(images, {"G": Noise(like="D"), "D": Deformation(FIELDS)})
    assert list(made) == ["G", "D"]
    torch.testing.assert_close(sizes(made["G"], images), sizes(made["D"], images))
    assert sizes(made["D"], images).std() > 0


def test_noise_is_white():
    images = torch.zeros(2000, 1, 4, 4, dtype=torch.float64)
    noise = Noise(norm=4.0)(images, range(2000), 0)
    torch.testing.assert_close(sizes(noise, images), torch.full((2000,), 4.0, dtype=torch.float64))
    covariance = noise.flatten(1).T @ noise.flatten(1) / 2000  # 1 on the diagonal, each entry within 5 of 0.022
    torch.testing.assert_close(covariance, torch.eye(16, dtype=torch.float64), atol=0.12, rtol=0)


def test_no_deformation_brings_no_noise():
    images = pictures(3, 1, 8, 8)
    made = perturbed(images, {"D": Deformation(Diffeomorphism(3, 0.0)), "G": Noise(like="D")})
    torch.testing.assert_close(made["D"], images)
    torch.testing.assert_close(made["G"], images)


@pytest.mark.parametrize("dx, dy", [(2, 0), (0, 3), (-1, 2), (20, 0)])
def test_moves_content_to_the_right_and_down(dx, dy):
    images = torch.zeros(1, 1, 7, 9)
    images[0, 0, 2, 3] = 1
    moved = Translation(dx, dy)(images, range(1), 0)
    expected = torch.zeros(1, 1, 7, 9)
    if 0 <= 3 + dx < 9:
        expected[0, 0, 2 + dy, 3 + dx] = 1
    assert torch.equal(moved, expected)


def test_fractions_of_a_pixel_lie_between_whole_ones():
    images = pictures(2, 3, 7, 8)
    whole = [Translation(dx)(images, range(2), 0) for dx in (0, 1)]
    torch.testing.assert_close(Translation(0.25)(images, range(2), 0), 0.75 * whole[0] + 0.25 * whole[1])
    almost = Translation(2 + 1e-9, -1)(images, range(2), 0)
    torch.testing.assert_close(almost, Translation(2, -1)(images, range(2), 0), atol=1e-6, rtol=0)


def test_what_comes_in_is_the_border():
    images = pictures(1, 1, 5, 6)
    assert torch.equal(Translation(2, 0)(images, range(1), 0)[..., :3], images[..., :1].expand(1, 1, 5, 3))


@pytest.mark.parametrize("degrees", [90, 180, 270, -90, 360, 450])
@pytest.mark.parametrize("side", [7, 8])
def test_quarter_turns_are_exact_and_the_limit_of_others(degrees, side):
    images = pictures(2, 1, side, side)
    turned = Rotation(degrees)(images, range(2), 0)
    assert torch.equal(turned, images.rot90(degrees // 90, (-2, -1)))
    torch.testing.assert_close(Rotation(degrees + 1e-7)(images, range(2), 0), turned, atol=1e-5, rtol=0)


def test_turns_oblong_images_in_their_frame():
    images = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    images[0, 0, 2, 6] = 1  # 2 px right of the centre, so 2 px above it after a quarter turn
    turned = Rotation(90)(images, range(1), 0)
    assert turned[0, 0, 0, 4].item() == pytest.approx(1)
    assert turned.sum().item() == pytest.approx(1)


def test_calls_any_function_with_images_places_and_seed():
    seen = []
    images = pictures(3, 5)
    made = perturbed(images, {"same": lambda *given: seen.append(given[1:]) or given[0]}, seed=4, first=20)
    assert torch.equal(made["same"], images) and seen == [(range(20, 23), 4)]


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, message", [
    (lambda: Noise(), "either like="),
    (lambda: Noise(like="D", norm=1.0), "either like="),
    (lambda: Noise(norm=-1.0), "norm must be 0 or more and finite, got -1.0"),
    (lambda: Noise(norm=float("inf")), "norm must be 0 or more and finite"),
    (lambda: Translation(float("nan")), "shift must be finite"),
    (lambda: Rotation(float("inf")), "angle must be finite"),
])  # fmt: skip
def test_refuses_what_is_no_perturbation(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("perturb, images, message", [
    (Deformation(FIELDS), torch.zeros(1, 1, 8, 9), "8 x 9 pixels: crop them"),
    (Deformation(FIELDS), torch.zeros(1, 8), r"a deformation needs images \(N, C, H, W\), got \(1, 8\)"),
    (Rotation(3), torch.zeros(1, 8), r"a rotation needs images \(N, C, H, W\)"),
    (Translation(1), torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "but images are torch.uint8"),
    (Noise(norm=1.0), torch.zeros(1, 8, dtype=torch.int64), "but images are torch.int64"),
    (Noise(like="D"), torch.zeros(1, 8), "needs that perturbation beside it"),
])  # fmt: skip
def test_refuses_images_it_cannot_perturb(perturb, images, message):
    with pytest.raises(ValueError, match=message):
        perturb(images, range(1), 0)


@pytest.mark.parametrize("perturbations, message", [
    ({"G": Noise(like="D")}, "noise 'G' must be like a perturbation .* beside it, not like 'D'"),
    ({"G": Noise(like="G")}, "not like 'G'"),
    ({"D": Rotation(9), "G": Noise(like="D"), "H": Noise(like="G")}, "noise 'H' .* not like 'G'"),
    ({"crop": lambda x, *_: x[..., 1:]}, r"'crop' must return .* it returned torch.float64 of \(2, 1, 6, 5\)"),
    ({"half": lambda x, *_: x.half()}, "it returned torch.float16"),
    ({"none": lambda x, *_: None}, "it returned NoneType"),
])  # fmt: skip
def test_refuses_perturbations_that_do_not_fit(perturbations, message):
    with pytest.raises(ValueError, match=message):
        perturbed(pictures(2, 1, 6, 6), perturbations)


def test_a_shift_of_float64_images_is_as_exact_as_they_are():
    images = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 3, 8)
    moved = Translation(0.1)(images, range(1), 0)
    torch.testing.assert_close(moved[..., 1:], images[..., 1:] - 0.1, rtol=0, atol=1e-12)
