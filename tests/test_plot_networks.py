"""The figure and the page of one network."""

import re

import pandas as pd
import pytest
import torch
from torch import nn

import spatialkit as sk
from spatialkit import measure


@pytest.fixture(scope="module")
def images():
    return nn.functional.avg_pool2d(torch.randn(12, 1, 20, 20, generator=torch.Generator().manual_seed(0)), 5, stride=1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten())


def test_a_panel_for_each_measure_that_has_values(images):
    table = sk.measure_all(network(), images)
    titles = {axis.get_title() for axis in sk.plot.profile(table).axes}
    assert {"orderness of maps", "R = D / G", "receptive field (px)", "total variation of kernels"} <= titles
    assert "right by a linear probe" not in titles
    (line, *_) = next(a for a in sk.plot.profile(table).axes if a.get_title() == "R = D / G").get_lines()
    shown = table.query("measure == 'R'")
    assert list(line.get_ydata()) == list(shown["value"])


@pytest.mark.parametrize("rows", [[], [{"layer": "0", "depth": 1, "measure": "R", "value": float("nan")}]])
def test_nothing_to_draw_is_said(rows):
    table = pd.DataFrame(rows, columns=["layer", "depth", "measure", "value"])
    with pytest.raises(ValueError, match="measure_all"):
        sk.plot.profile(table)


def test_the_page_is_complete_in_itself_and_says_the_numbers(images, tmp_path):
    path = sk.report(network(), images, tmp_path / "page.html", [i % 2 for i in range(12)])
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "http" not in re.sub(r"data:[^\"]+", "", text)
    value = sk.measure_all(network(), images).query("measure == 'R' and layer == '3'")["value"].iloc[0]
    assert f"R of the last layer, 3, is {value:.2f}" in text
    assert "no maps" in text  # why the last layer has no orderness
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", ["page.txt", "nowhere/page.html", "."])
def test_a_path_that_cannot_be_is_refused_before_any_work(images, tmp_path, name, monkeypatch):
    monkeypatch.setattr(measure, "measure_all", lambda *_: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=r"path must be a \.html file in a folder that exists"):
        sk.report(network(), images, tmp_path / name)


def test_the_names_of_a_network_are_no_markup(images, tmp_path):
    class Net(nn.Sequential):
        pass

    Net.__name__ = "<b>"
    text = sk.report(Net(*network()), images, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<b>" not in text and "&lt;b&gt;" in text
