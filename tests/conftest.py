"""Settings of the whole suite, a device for kernels, and a browser for pages."""

import os
import shutil
from importlib.util import find_spec

import pytest
import torch
from hypothesis import settings

# Triton reads this when a kernel's file is imported. With a GPU the same tests run there.
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    if find_spec("triton"):
        from interpreter import patch_language_once_a_launch

        patch_language_once_a_launch()

# The first example of a test may wait for numba to compile.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not HAS_GPU:
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("ray") and "ray" not in item.config.option.markexpr:
        pytest.skip("starts a Ray cluster; run by pytest -m ray")


def _poisoned(*shape, **settings):
    """``torch.empty`` that holds what no kernel may leave: NaN, or a number far out of range."""
    out = torch.zeros(*shape, **settings)
    return out.fill_(float("nan") if out.is_floating_point() else torch.iinfo(out.dtype).max - 7)


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where Triton kernels run: "cpu", by its interpreter, or "cuda"; fresh memory is poisoned.

    In the interpreter a search selects by sorting: the kernel takes half a second a row there, and
    has tests of its own (marked topk).
    """
    monkeypatch.setattr(torch, "empty", _poisoned)
    pytest.importorskip("triton", reason="needs triton, which has wheels for Linux alone")
    if request.param == "cuda":
        yield "cuda"
    elif HAS_GPU:
        pytest.skip("this machine has a GPU, where the same case runs")
    else:
        from compressae.kernels.backend import use
        from compressae.kernels.topk import gpu as topk

        if not request.node.get_closest_marker("topk"):
            monkeypatch.setattr(topk, "top", topk.top_by_sorting)
        with use("triton"):
            yield "cpu"


@pytest.fixture
def one_thread():
    """One thread of torch: small steps only wait for a second one, seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
