"""Figures: the same table gives the same bytes."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import seaborn as sns
import torch

from spatialkit import places, plot


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path))
    plt.switch_backend("agg")
    yield tmp_path / "figures"
    plt.close("all")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_shades_run_from_the_darkest_and_leave_the_lightest_out(n):
    sizes = [2**i for i in range(n)]
    shades = plot.shades(iter(sizes))
    assert list(shades) == sizes
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in shades.values()]
    assert light == sorted(light) and len(set(light)) == n
    palette = sns.color_palette("viridis", n + 1)
    assert shades[sizes[0]] == palette[0] and palette[-1] not in shades.values()


def draw(values):
    table = pd.DataFrame({"scale (px)": [1, 2, 3], "value": values})
    plot.set_theme()
    figure, axis = plt.subplots()
    sns.lineplot(table, x="scale (px)", y="value", ax=axis)
    plot.reference(axis, 1.5, "theory")
    plot.reference(axis, 2, "block", vertical=True)
    plot.label_panels([axis])
    plot.save(figure, "x", table)
    return {p.suffix: p.read_bytes() for p in (places.out() / "figures").iterdir()}


def test_the_same_table_gives_the_same_bytes_and_another_does_not():
    first, second, other = draw([1.0, 2.0, 3.0]), draw([1.0, 2.0, 3.0]), draw([1.0, 2.0, 3.1])
    assert set(first) == {".svg", ".png", ".csv"}
    assert first == second
    assert all(first[kind] != other[kind] for kind in first)


def test_the_tidy_table_lies_beside_the_picture(own_folder):
    draw([1.0, 2.0, 3.0])
    assert pd.read_csv(own_folder / "x.csv")["value"].tolist() == [1.0, 2.0, 3.0]
    assert "<text" in (own_folder / "x.svg").read_text()  # text stays text


def test_provenance_stands_below_the_figure(own_folder):
    made = {"profile": ["laptop"], "data": [], "device": ["CPU"], "runs": 2, "seeds": 2, "other code": 0}
    table = pd.DataFrame({"x": [1]})
    table.attrs["made"] = made
    figure, axis = plt.subplots()
    plot.save(figure, "y", table)
    assert "profile laptop; no data set; CPU; 2 runs, 2 seeds" in (own_folder / "y.svg").read_text()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_of_images_keeps_every_pixel(channels):
    images = torch.randint(0, 255, (5, channels, 4, 6), dtype=torch.uint8)
    figure, axis = plt.subplots()
    plot.show_images(axis, images, columns=3)
    sheet = torch.as_tensor(axis.images[0].get_array())
    assert sheet.shape[:2] == (2 * 5 - 1, 3 * 7 - 1)
    fourth = sheet[5:9, 0:6] if channels == 1 else sheet[5:9, 0:6].permute(2, 0, 1)
    assert torch.equal(fourth.reshape(images[3].shape), images[3])


def test_sliders_are_for_people(monkeypatch):
    asked = []
    monkeypatch.setattr("ipywidgets.interact", lambda function, **controls: asked.append((function, controls)))
    plot.explore(print, steps=(0, 9))
    assert asked == []  # SPATIALKIT_OUT is set, as the batch commands do
    monkeypatch.delenv("SPATIALKIT_OUT")
    plot.explore(print, steps=(0, 9))
    assert asked == [(print, {"steps": (0, 9)})]
