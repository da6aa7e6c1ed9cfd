"""Settings of the whole suite, and a browser for pages."""

import shutil

import pytest
from hypothesis import settings

# The first example of a test may wait for numba to compile.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: the system's, or playwright's own."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install)")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync.sync_playwright() as play:
        try:
            chromium = play.chromium.launch(executable_path=found, args=quiet)
        except sync.Error as error:
            pytest.skip(f"needs Chromium (apt install chromium): {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open a file as a page; afterwards nothing may have gone wrong in it or left the machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    complaints = []

    def open_file(path):
        page = context.new_page()
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url),
        )
        page.goto(path.absolute().as_uri())
        return page

    yield open_file
    context.close()
    assert complaints == []
