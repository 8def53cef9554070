"""Figures: the same table gives the same bytes."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import seaborn as sns
import torch

from spatialkit import lab, plot
from spatialkit.lab import places
from spatialkit.plot import figures


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
    assert "<text" in (own_folder / "x.svg").read_text("utf-8")  # text stays text


def test_provenance_stands_below_the_figure(own_folder):
    runs = sweep_twice()
    for name, of in (("all", runs), ("part", runs[runs["seed"] == 1]), ("list", [runs[:1], runs[1:]])):
        plot.save(plt.figure(), name, pd.DataFrame({"mean": [1.5]}), of=of)
        shown = f"profile laptop; no data set; CPU; {len(runs[:1] if name == 'part' else runs)} runs"
        assert shown in (own_folder / f"{name}.svg").read_text("utf-8")
    plot.save(plt.figure(), "none", pd.DataFrame({"mean": [1.5]}))
    assert "profile" not in (own_folder / "none.svg").read_text("utf-8")


def test_no_figure_loses_where_its_runs_come_from(own_folder):
    runs = sweep_twice()
    with pytest.raises(ValueError, match=r"a sweep made these rows: .*of=table"):
        plot.save(plt.figure(), "y", runs[runs["seed"] == 1])
    with pytest.raises(ValueError, match="belong to no sweep"):
        plot.save(plt.figure(), "y", runs, of=runs.drop(columns="seed"))
    assert not own_folder.exists()


def sweep_twice():
    @lab.task
    def seeded(seed):
        return {"value": seed}

    lab.begin("laptop")
    return lab.sweep(seeded, seed=[0, 1], executor=lab.Serial())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_of_images_keeps_every_pixel(channels):
    images = torch.randint(0, 255, (5, channels, 4, 6), dtype=torch.uint8)
    figure, axis = plt.subplots()
    plot.show_images(axis, images, columns=3)
    sheet = torch.as_tensor(axis.images[0].get_array())
    assert sheet.shape[:2] == (2 * 5 - 1, 3 * 7 - 1)
    fourth = sheet[5:9, 0:6] if channels == 1 else sheet[5:9, 0:6].permute(2, 0, 1)
    assert torch.equal(fourth.reshape(images[3].shape), images[3])


# Left alone where only last digits differ, as on another processor.


def draw_dots(own_folder, *, nudge=0.0, label="dots", shade=0.5):
    plot.set_theme()
    figure, axes = plt.subplots(1, 2)
    places_of = [0.1 + nudge, 0.5, 0.9]
    axes[0].scatter(places_of, places_of, color=[(shade, 0.2, 0.7)] * 3, clip_on=True)
    axes[0].set(xlim=(0, 1), ylim=(0, 1), xlabel=label)
    axes[1].imshow([[0.0, shade], [0.2, 1.0]])
    plot.save(figure, "dots", pd.DataFrame({"x": places_of}))
    return {path.suffix: path.read_bytes() for path in own_folder.iterdir()}


@pytest.mark.parametrize(
    "change", [{"nudge": 1e-9}, {"nudge": 5e-8}, {"shade": 0.5 + 1 / 500}], ids=["none", "digits", "colour"]
)
def test_a_figure_that_says_the_same_is_left_alone(own_folder, change):
    first = draw_dots(own_folder)
    assert draw_dots(own_folder, **change) == first


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"nudge": 1e-3}, {".svg", ".png", ".csv"}),
        ({"nudge": 1e-6}, {".csv"}),  # too small for the picture, not for the table
        ({"label": "dots 2"}, {".svg", ".png"}),
        ({"shade": 0.55}, {".svg", ".png"}),
    ],
)
def test_a_figure_that_says_something_else_is_written_anew(own_folder, change, kinds):
    first, second = draw_dots(own_folder), draw_dots(own_folder, **change)
    assert {kind for kind in first if first[kind] != second[kind]} == kinds


def test_a_damaged_figure_is_written_anew(own_folder):
    first = draw_dots(own_folder)
    for path in own_folder.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    assert draw_dots(own_folder) == first


def test_words_of_a_drawing_count_to_the_last_digit():
    one, other = (f'<svg><text x="1.00001">R = 0.12{digit}</text></svg>'.encode() for digit in (3, 4))
    assert figures._same_drawing(one, one.replace(b"1.00001", b"1.00002"))
    assert not figures._same_drawing(one, other)


def test_markers_named_after_their_paths_count_by_their_order():
    name = '<path id="m{0}" d="M 0 {1}"/><use href="#m{0}"/><use href="#m{2}"/>'.format
    one = name("8e3a0b1c2d", "0.111111", "8e3a0b1c2d").encode()
    assert figures._same_drawing(one, name("1f2e3d4c5b", "0.111112", "1f2e3d4c5b").encode())
    assert not figures._same_drawing(one, name("1f2e3d4c5b", "0.111112", "ffffffffff").encode())


def test_a_figure_that_cannot_be_written_says_what_to_do(own_folder):
    own_folder.write_text("a file where the folder should be", "utf-8")
    with pytest.raises(ValueError, match=r"cannot write .*set SPATIALKIT_OUT to a folder of yours"):
        draw_dots(own_folder)


# Sliders: where somebody can move them.


class Kernel:
    def __init__(self, **content):
        self.content = content

    def get_parent(self):
        return {"content": self.content}


@pytest.fixture
def asked(monkeypatch):
    asked = []
    monkeypatch.setattr("ipywidgets.interact", lambda function, **controls: asked.append((function, controls)))
    return asked


def test_sliders_are_for_front_ends_that_can_ask_their_user(monkeypatch, asked):
    shell = SimpleNamespace(kernel=Kernel(allow_stdin=True))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    plot.explore(print, steps=(0, 9))  # SPATIALKIT_OUT is set here: it says nothing about who is there
    assert asked == [(print, {"steps": (0, 9)})]


def test_sliders_bear_their_labels(monkeypatch):
    shell = SimpleNamespace(kernel=Kernel(allow_stdin=True))

    def show(steps, kind):
        pass

    with monkeypatch.context() as patch:
        patch.setattr("IPython.get_ipython", lambda: shell)
        patch.setattr("IPython.display.display", lambda *_: None)
        plot.explore(show, labels={"steps": "exchanges per image"}, steps=(0, 9), kind=["a", "b"])
    assert [control.description for control in show.widget.kwargs_widgets] == ["exchanges per image", "kind"]
    with pytest.raises(ValueError, match="labels of step, no control; there are steps"):
        plot.explore(show, labels={"step": "exchanges per image"}, steps=(0, 9))


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(kernel=Kernel(allow_stdin=False))])
def test_a_batch_run_draws_the_first_values_instead(monkeypatch, asked, shell):
    monkeypatch.delenv("SPATIALKIT_OUT")
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    drawn = []

    def show(steps, scale, kind, flag, own=7):
        drawn.append((steps, scale, kind, flag, own))

    plot.explore(show, steps=(0, 9, 2), scale=(0.5, 1.5), kind=["a", "b"], flag=True, own=(0, 9))
    assert asked == [] and drawn == [(4, 0.5, "a", True, 7)]


def test_first_values_are_those_of_ipywidgets(monkeypatch):
    from ipywidgets import interactive

    def show(steps, scale, kind, flag, own=7):
        return steps, scale, kind, flag, own

    controls = {"steps": (0, 9, 2), "scale": (0.5, 2.0, 0.25), "kind": ["a", "b"], "flag": True, "own": (0, 9)}
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    widgets = interactive(show, **controls).kwargs_widgets
    assert [figures._first_value(show, name, control) for name, control in controls.items()] == [
        w.value for w in widgets
    ]
