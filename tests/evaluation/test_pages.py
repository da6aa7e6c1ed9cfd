"""Pages of one file: what the data holds is text, whatever it is."""

import pytest

from compressae.evaluation import pages

ODD = "</script><script>document.title='owned'</script> @STYLE@ <b>é & \u2028"


def test_data_stay_text(tmp_path, open_page, monkeypatch):
    (tmp_path / "trial.js").write_text(
        'document.querySelector("main").textContent = DATA.text + DATA.numbers.length;'
    )
    for name in ("shell.html", "style.css"):
        (tmp_path / name).write_text((pages._FOLDER / name).read_text())
    monkeypatch.setattr(pages, "_FOLDER", tmp_path)
    path = tmp_path / "page.html"
    path.write_text(pages.render("trial", "a <title> & more", {"text": ODD, "numbers": [1, 2.5]}))
    page = open_page(path)
    assert page.title() == "a <title> & more"
    assert page.text_content("main") == f"{ODD}2"
    assert page.locator("main *").count() == 0


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        pages.render("report", "x", {"a": float("nan")})
