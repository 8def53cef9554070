"""The book: how notebooks become pages, and, where it was built, whether its links and pictures are there."""

import html.parser
import json
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from spatialkit import claims
from spatialkit.commands.book import gather
from spatialkit.commands.book_notebooks import captions, label, plain, prepared, recorded
from spatialkit.commands.plan import select
from spatialkit.lab import places

ROOT = places.root()
BUILT = ROOT / "build" / "book" / "html"

DRAWING = "figure, axis = plt.subplots()\n" + "\n".join(f"axis.plot({i})" for i in range(6))
TABLE = [new_output("display_data", {"text/markdown": "| [rs.figB](../figures/rs.figB.png) |"})]
PICTURE = [new_output("display_data", {"image/png": "iVBORw0KGgo="})]


@pytest.fixture
def page(tmp_path):
    """A notebook as a page of the book."""
    cells = [
        new_markdown_cell("# 1. A title\n\nWhat is `drawn` here."),
        new_code_cell(DRAWING, outputs=PICTURE),
        new_code_cell(DRAWING, outputs=PICTURE),
        new_markdown_cell("*Figure so.fig1. An $x_i$ of\ntwo lines.*\n\nMore."),
        new_code_cell('sk.claims.record("so.fig1", rows, table)\nplt.show()\n' + DRAWING, outputs=TABLE),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "01_a.ipynb")
    return prepared(tmp_path / "01_a.ipynb")


def test_a_claim_and_a_figure_can_be_linked_to(page):
    sources = [cell.source for cell in page.cells]
    assert sources[3].startswith("(figure-so-fig1)=\n*Figure so.fig1. ")
    assert sources[4:] == ["(claim-so-fig1)=", sources[5]] and sources[5].startswith("sk.claims.record")


def test_code_that_only_draws_is_folded(page):
    folded = ["hide-input" in cell.metadata.get("tags", []) for cell in page.cells]
    assert folded == [False, True, True, False, False, False]


def test_a_picture_has_the_words_of_its_caption_or_of_the_paragraph_before(page):
    words = [cell.metadata["mystnb"]["image"]["alt"] for cell in page.cells[1:3]]
    assert words == ["What is drawn here.", "Figure so.fig1. An x_i of two lines."]


def test_a_link_to_the_file_of_a_figure_leads_to_the_gallery(page):
    assert page.cells[-1].outputs[0].data["text/markdown"] == "| [rs.figB](../gallery.html#rs-figb) |"


def test_words_of_markdown():
    assert plain("**a** `b` $\\xi = 1$ [c](d/e.md)\nf") == "a b xi = 1 c f"
    assert label("claim", "rs.figB") == "claim-rs-figb"
    assert recorded("x = record('a')\nclaims.record(name, 1)\nclaims.record('so.eq4', 1)") == ["so.eq4"]


def test_what_is_no_notebook_is_refused_by_name(tmp_path):
    (tmp_path / "01_a.ipynb").write_text("no json", "utf-8")
    with pytest.raises(ValueError, match=r"01_a\.ipynb is no notebook"):
        prepared(tmp_path / "01_a.ipynb")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """The sources of the book of this bundle."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "old").mkdir()
    (folder / "old" / "page.md").write_text("gone", "utf-8")
    gather(ROOT, folder)
    return folder


def test_every_figure_of_the_bundle_is_told_in_a_notebook_and_stands_in_the_gallery(laid_out):
    told = {name for path in select(ROOT) for name in captions(nbformat.read(path, as_version=4))}
    figures = {path.stem for path in (ROOT / "figures").glob("*.png")} - {"scorecard"}
    assert figures <= told  # a figure of what is not run at this profile is told, too
    gallery = (laid_out / "gallery.md").read_text("utf-8")
    pictures = re.findall(r"!\[(.+)\]\(figures/(\S+)\.png\)", gallery)
    assert {name for _, name in pictures} == figures | {"scorecard"} and all(len(words) > 20 for words, _ in pictures)


def test_every_number_of_the_scorecard_stands_on_the_page_of_its_claim(laid_out):
    front = (laid_out / "index.md").read_text("utf-8")
    assert claims.summary_line() in front
    verdicts = claims.verdicts()
    for claim, rows in claims.scorecard().groupby("claim"):
        page = (laid_out / "claims" / f"{claim.split('.')[0]}.md").read_text("utf-8")
        part = page.partition(f"({label('scorecard', claim)})=")[2].partition("(scorecard-")[0]
        assert verdicts[claim] in part.splitlines()[2]
        measured = rows[rows["verdict"] != "not run"]
        assert all(f"| {ours}" in part for ours in measured["ours"])
        if len(measured):
            assert f"(#{label('scorecard', claim)})" in front and f"(#{label('claim', claim)})" in front
            assert f"(#{label('claim', claim)})" in part and ".jsonl" in part


def test_what_a_page_links_to_comes_along_and_what_is_gone_goes(laid_out):
    assert (laid_out / "docs/teaching.md").is_file() and not (laid_out / "docs/scorecard.md").exists()
    assert not (laid_out / "old/page.md").exists()
    before = {path: path.stat().st_mtime_ns for path in laid_out.rglob("*") if path.is_file()}
    gather(ROOT, laid_out)
    assert before == {path: path.stat().st_mtime_ns for path in laid_out.rglob("*") if path.is_file()}


# The built book.

built = pytest.mark.skipif(not (BUILT / "index.html").is_file(), reason="the book was not built here: make book")
PAGES = sorted(path for path in BUILT.rglob("*.html") if "_static" not in path.parts) if BUILT.is_dir() else []


class Page(html.parser.HTMLParser):
    """What a page refers to, what can be referred to, pictures without words, and its text outside code."""

    def __init__(self, path):
        super().__init__()
        self.links, self.files, self.names, self.speechless, self.text = [], [], set(), [], []
        self._code = 0
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        self.files += [given[key] for key in ("src",) if given.get(key)]
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.files.append(given["href"])
        if tag == "img" and not given.get("alt"):
            self.speechless.append(given.get("src"))
        self._code += tag in ("pre", "code", "script", "style")

    def handle_endtag(self, tag):
        self._code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data):
        if not self._code:
            self.text.append(data)


@pytest.fixture(scope="module")
def parsed():
    return {path: Page(path) for path in PAGES}


def target(path, link):
    """File and place that a link of a page leads to; None for one to the network."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    file = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
    return file, urllib.parse.unquote(parts.fragment)


@built
def test_every_internal_link_leads_somewhere(parsed):
    lost = []
    for path, page in parsed.items():
        for file, place in filter(None, (target(path, link) for link in page.links)):
            there = file.is_file() and (not place or file not in parsed or place in parsed[file].names)
            lost += [] if there else [f"{path.relative_to(BUILT)} -> {file.name}#{place}"]
    assert len(parsed) > 20 and not lost


@built
def test_every_picture_is_there_and_has_words_and_nothing_comes_from_the_network(parsed):
    for path, page in parsed.items():
        found = [target(path, file) for file in page.files if not file.startswith("data:")]
        assert None not in found, path
        assert not [file for file, _ in found if not file.is_file()], path
        assert not page.speechless, path


@built
def test_no_equation_is_left_raw(parsed):
    raw = {path.name for path, page in parsed.items() if "$$" in "".join(page.text)}
    assert not raw


@built
def test_a_number_is_three_clicks_from_its_records(parsed):
    # The front page, the claim, the cell; and the records.
    front = parsed[BUILT / "index.html"]
    for claim in ("so.fig1", "ds.fig3", "rs.fig1b", "st.thm1", "st.stn"):
        first = [target(BUILT / "index.html", link) for link in front.links]
        (file,) = {file for file, place in first if place == label("scorecard", claim)}
        second = {place for _, place in filter(None, (target(file, link) for link in parsed[file].links))}
        assert label("claim", claim) in second
        assert any(link.endswith(".jsonl") for link in parsed[file].links)


# In a browser.

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(
    CHROMIUM is None or not PAGES,
    reason="Chromium is not here, or the book was not built: apt-get install chromium; make book",
)


def shown(url, tmp_path):
    """A page as Chromium has it after its scripts ran."""
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    words = [CHROMIUM, *quiet.split(), "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}"]
    words += ["--allow-file-access-from-files", "--virtual-time-budget=60000", "--dump-dom", url]
    try:
        return subprocess.run(words, capture_output=True, encoding="utf-8", timeout=240).stdout
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium did not answer within four minutes: too much else runs here")


@browser
@pytest.mark.slow
def test_the_search_finds_orderness(tmp_path):
    page = shown(f"{(BUILT / 'search.html').as_uri()}?q=orderness", tmp_path)
    results = page.partition('id="search-results"')[2]
    assert "notebooks/01_multiscale_orderness.html" in results and "api/measure.html" in results


@browser
@pytest.mark.slow
def test_equations_are_set(tmp_path):
    page = shown((BUILT / "notebooks" / "01_multiscale_orderness.html").as_uri(), tmp_path)
    assert page.count('class="MathJax"') > 10 and 'class="merror' not in page


_HARNESS = """<!doctype html><body><iframe id="f" width="390" height="800" style="border:0"></iframe>
<pre id="out"></pre>
<script>
const pages = PAGES, found = [], frame = document.getElementById("f");
function next() {
  if (!pages.length) { document.getElementById("out").textContent = JSON.stringify(found); return; }
  frame.onload = () => setTimeout(() => {
    const page = frame.contentDocument.documentElement;
    found.push([frame.src, page.scrollWidth]);
    next();
  }, 500);
  frame.src = pages.shift();
}
next();
</script>"""


@browser
@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_telephone(tmp_path):
    chosen = [BUILT / "index.html", BUILT / "gallery.html", *sorted((BUILT / "notebooks").glob("*.html"))]
    chosen += [path for part in ("docs", "claims", "api") for path in sorted((BUILT / part).glob("*.html"))]
    harness = tmp_path / "harness.html"
    harness.write_text(_HARNESS.replace("PAGES", json.dumps([path.as_uri() for path in chosen])), "utf-8")
    said = re.search(r'<pre id="out">(.+?)</pre>', shown(harness.as_uri(), tmp_path / "profile"))
    widths = {Path(urllib.parse.urlsplit(url).path).name: width for url, width in json.loads(said[1])}
    assert len(widths) == len(chosen) and not {name: width for name, width in widths.items() if width > 390}
