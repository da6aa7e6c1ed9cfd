"""The page of an atlas, in a browser."""

import numpy as np
import pytest
import scipy.sparse

from compressae import CompresSAE, compress
from compressae.evaluation.atlas import atlas, write_atlas
from compressae.retrieval import CompressedIndex, InvertedIndex

N, H = 500, 128
EVIL = "</script><script>document.title='owned'</script><b>bold</b>"


@pytest.fixture(scope="module")
def found():
    """Every latent lives, and one row's label is markup."""
    table = np.random.default_rng(0).standard_normal((N, 16)).astype(np.float32)
    model = CompresSAE(16, H, 4, seed=0)
    index = CompressedIndex(model.projection, compress(model, table, nonzeros=6), lists=False)
    labels = [f"Item {i} of {'odd' if i % 2 else 'even'}" for i in range(N)]
    first = atlas(index, labels)
    assert first.live == H
    labels[int(first.positive.ids[0, 0])] = EVIL
    return atlas(index, labels)


@pytest.fixture
def page(found, tmp_path, open_page):
    write_atlas(found, tmp_path / "atlas.html", "Atlas")
    return open_page(tmp_path / "atlas.html")


def drawn(page):
    """Numbers of the latents drawn, in their order."""
    return page.eval_on_selector_all("article", "all => all.map(one => Number(one.id.slice(7)))")


def at_top(page, latent):
    """Whether a latent has the focus and stands in view."""
    return page.evaluate(
        """name => document.activeElement.id === name &&
        document.activeElement.getBoundingClientRect().top >= 0 &&
        document.activeElement.getBoundingClientRect().top < innerHeight / 2""",
        f"latent-{latent}",
    )


def test_what_is_shown_is_the_atlas(page, found):
    said = page.text_content("main")
    assert "500" in said and "128" in said and "0 dead" in said and "128 of 128 latents" in said
    assert page.locator(".histogram rect").count() == len(found.bins)
    assert drawn(page) == found.numbers[:30].tolist()  # Not all: they are drawn as one looks.
    first = page.locator("article").first
    assert f"({found.counts[0]})" in first.locator("header").text_content()
    for column, end in ((0, found.positive), (1, found.negative)):
        shown = first.locator("section").nth(column).locator(".label").all_text_contents()
        assert shown == [found.labels[i] for i in end.ids[0].tolist() if i >= 0]
    value = first.locator(".value").first.text_content()
    assert value[0] == "+" and float(value) == pytest.approx(
        found.positive.values[0, 0], abs=0.0011
    )


def test_a_label_is_text(page):
    assert page.title() == "Atlas" and page.locator("b, main script").count() == 0
    assert page.locator(".label").first.text_content() == EVIL


def test_more_are_drawn_as_one_scrolls(page, found):
    for _ in range(12):
        page.mouse.wheel(0, 6000)
        page.wait_for_timeout(50)
    assert drawn(page) == found.numbers.tolist()
    assert page.locator("text=Show more").is_hidden()


def test_a_tall_window_is_filled(page):
    page.set_viewport_size({"width": 1280, "height": 20_000})
    # A function: a bare expression that does not hold at once is refused by the page's own policy.
    page.wait_for_function("() => document.querySelectorAll('article').length > 60", timeout=5000)


def test_filter(page, found):
    page.keyboard.press("/")  # Leads to the filter.
    page.keyboard.type("ITEM 12 of")
    having = [
        int(latent)
        for latent, *ends in zip(found.numbers, found.positive.ids, found.negative.ids, strict=True)
        if 12 in np.concatenate(ends)
    ]
    assert having and drawn(page) == having
    assert page.locator(".hit").count() == len(having)
    assert page.locator("[role=status]").text_content() == f"{len(having)} of 128 latents"
    page.fill("#filter", "#77")
    assert drawn(page) == [77]
    page.fill("#filter", "77")
    assert 77 in drawn(page)
    page.fill("#filter", "nothing of the kind")
    assert drawn(page) == [] and "No latent matches" in page.text_content("[role=status]")
    page.keyboard.press("Enter")  # Sends the form nowhere.
    page.wait_for_timeout(100)
    assert page.input_value("#filter") == "nothing of the kind" and "?" not in page.url
    page.fill("#filter", "")
    assert len(drawn(page)) == 30


def test_sort(page, found):
    expected = {
        "most rows first": np.lexsort((found.numbers, -found.counts)),
        "fewest rows first": np.lexsort((found.numbers, found.counts)),
        "by number": np.argsort(found.numbers),
    }
    for name, order in expected.items():
        page.select_option("#sort", name)
        assert drawn(page) == found.numbers[order][:30].tolist()
    means = dict(zip(found.numbers.tolist(), found.means, strict=True))
    for name, sign in (("largest mean |value| first", -1), ("smallest mean |value| first", 1)):
        page.select_option("#sort", name)
        shown = [sign * means[latent] for latent in drawn(page)]
        np.testing.assert_allclose(shown, np.sort(sign * found.means)[:30], rtol=1e-3)


def test_links_to_near_latents(page, found):
    links = page.locator("article").first.locator(".near a")
    assert links.count() == 5
    near = found.near[0].tolist()
    assert [int(link.split()[0]) for link in links.all_text_contents()] == near
    far = next(latent for latent in near if latent not in drawn(page))
    page.locator(f"article:first-child .near a[href='#latent-{far}']").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.activeElement.id === name", arg=f"latent-{far}")
    assert at_top(page, far) and page.url.endswith(f"#latent-{far}")
    page.go_back()
    assert "#" not in page.url
    page.go_forward()
    page.wait_for_function("name => document.activeElement.id === name", arg=f"latent-{far}")


def test_a_link_from_outside_and_what_stands_before_it(page, found):
    last = int(found.numbers[100])
    page.goto(f"{page.url}#latent-{last}")
    page.reload()
    assert at_top(page, last) and drawn(page)[0] == last
    page.locator("text=Show earlier").click()
    assert drawn(page)[:31] == found.numbers[70:101].tolist()
    page.fill("#filter", "nothing of the kind")
    page.evaluate(f"location.hash = 'latent-{int(found.numbers[120])}'")
    page.wait_for_function("() => document.activeElement.className === 'latent'")
    assert at_top(page, int(found.numbers[120])) and page.input_value("#filter") == ""
    page.evaluate("location.hash = 'latent-9999'")
    page.wait_for_function(
        "() => document.querySelector('[role=status]').textContent.includes('9999 is not listed')"
    )


def test_whole_labels(page):
    label = page.locator(".label").first
    before = label.bounding_box()["height"]
    page.set_viewport_size({"width": 330, "height": 700})
    assert label.bounding_box()["height"] == before
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("whole labels").check()
    assert label.bounding_box()["height"] > before


def test_without_labels_and_without_a_model(tmp_path, open_page):
    rng = np.random.default_rng(1)
    rows = scipy.sparse.random_array((40, 50), density=0.1, rng=rng, dtype=np.float32)
    index = InvertedIndex(rows, ids=np.arange(40) + 2**60)
    found = atlas(index, latents=20)
    write_atlas(found, tmp_path / "atlas.html")
    page = open_page(tmp_path / "atlas.html")
    said = page.text_content("main")
    assert "No nearest latents: the index holds no model" in said and "20 most used" in said
    assert page.locator(".near").count() == 0 and page.locator("#wrap").count() == 0
    row = int(found.positive.ids[0, 0])
    assert page.locator(".label").first.text_content() == f"row {row}"
    assert page.locator("article section").nth(1).text_content() == "negativeno row"
    page.fill("#filter", str(row))
    assert found.numbers[0] in drawn(page) and page.locator(".hit").count() == len(drawn(page))


@pytest.mark.parametrize(
    ("shares", "marks"),
    [
        ([1, 2, 30], ["0.1 %", "0.2 %", "0.5 %", "1 %", "2 %"]),
        ([1, 1000], ["0.1 %", "1 %", "10 %", "100 %"]),
        ([1000], ["89.1 %", "100 %"]),
    ],
)
def test_the_histogram_has_round_marks(shares, marks, tmp_path, open_page):
    rows = np.arange(1000)[:, None] < shares
    write_atlas(atlas(InvertedIndex(scipy.sparse.csr_array(rows))), tmp_path / "atlas.html")
    page = open_page(tmp_path / "atlas.html")
    said = page.locator(".histogram text").all_text_contents()
    assert [one for one in said if "even" not in one] == marks
    counts = [one.split(": ")[1] for one in page.locator("rect title").all_text_contents()]
    assert sum(int(one.split()[0]) for one in counts) == len(shares)


def test_an_atlas_of_nothing(tmp_path, open_page):
    index = InvertedIndex(scipy.sparse.csr_array((4, 6), dtype=np.float32))
    write_atlas(atlas(index), tmp_path / "atlas.html")
    page = open_page(tmp_path / "atlas.html")
    assert "6 dead" in page.text_content("main") and drawn(page) == []
