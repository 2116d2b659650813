"""The page in a real browser, without a window: Chromium as a distribution packages it, driven by Selenium."""

import json
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

gradio = pytest.importorskip("gradio", reason="Gradio is not installed: pip install -e '.[demo]'")

import dk_detr
from dk_detr.commands.web_demo.page import MEMORY, Page
from dk_detr.commands.web_demo.words import TYPED
from tests.conftest import HEIGHT, WIDTH

MEGABYTES = 0.05
PATIENCE = 30  # seconds; the machine may be busy
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def connections() -> Iterator[list[Any]]:
    """Addresses that this process, the server, connects to."""
    asked: list[Any] = []

    class Recorded(socket.socket):
        def connect(self, address: Any) -> None:
            asked.append(address)
            super().connect(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Recorded)
        yield asked


@pytest.fixture(scope="module")
def page(tiny_files: Path, tmp_path_factory: pytest.TempPathFactory, connections: list[Any]) -> Iterator[Page]:
    """A page, served; `page.blocks.local_url` is its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = Page(dk_detr.load(tiny_files / "run" / "model_final.pth"))
        page.open("127.0.0.1", free_port(), MEGABYTES)
        yield page
        page.close()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser saves."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    """Chromium, with a log of what it asks the network for."""
    selenium = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed: pip install -e '.[demo]'")
    program, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("There is no Chromium with its driver here.")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    window = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield window
    window.quit()


@pytest.fixture
def visit(page: Page, browser: Any, downloads: Path) -> "Visit":
    """A first visit to the page."""
    visit = Visit(browser, str(page.blocks.local_url), downloads)
    visit.open()
    browser.execute_script("localStorage.clear()")
    visit.open()
    return visit


class Visit:
    """What a visitor does and sees."""

    def __init__(self, browser: Any, address: str, downloads: Path) -> None:
        self.browser, self.address, self.downloads = browser, address, downloads

    def open(self) -> None:
        """Load the page, or load it again."""
        self.browser.get(self.address)
        until(lambda: self.one("#status .answer"))

    def one(self, selector: str) -> Any:
        """The first element, or None."""
        found = self.browser.find_elements("css selector", selector)
        return found[0] if found else None

    def upload(self, file: Path) -> None:
        """Give a picture."""
        until(lambda: self.one("#picture input[type=file]"))
        self.one("#picture input[type=file]").send_keys(str(file))

    def type(self, words: str) -> None:
        """Put these words in place of those that are there."""
        until(lambda: self.one("#words textarea"))
        field = self.one("#words textarea")
        field.clear()
        field.send_keys(words)

    def find(self) -> None:
        """Press the button."""
        self.one("#find").click()

    def status(self) -> str:
        """The sentence below the picture."""
        element = self.one("#status .answer, #status .problem")
        return element.text if element else ""

    def waits_for(self, words: str) -> None:
        """Until the sentence holds these words."""
        try:
            until(lambda: words in self.status())
        except TimeoutError:
            raise AssertionError(f"{words!r} did not come, but {self.status()!r}") from None

    def picture(self) -> str:
        """The address of the picture that is shown; "" for none."""
        element = self.one("#shown img")
        return element.get_attribute("src") if element else ""

    def records(self) -> list[dict[str, Any]]:
        """What the button downloads."""
        for file in self.downloads.glob("*"):
            file.unlink()
        until(lambda: self.one("#save").is_enabled())
        self.one("#save").click()
        until(lambda: list(self.downloads.glob("*.json")))
        return json.loads(next(self.downloads.glob("*.json")).read_text())  # type: ignore[no-any-return]


def until(holds: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait; raises TimeoutError. What is drawn anew meanwhile may vanish under the question."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            if holds():
                return
        except StaleElementReferenceException:
            pass
        time.sleep(0.05)
    raise TimeoutError


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


@pytest.fixture
def image(tiny_images: Path) -> Path:
    return tiny_images / "000001.jpg"


def test_boxes_appear_with_words_and_come_as_json(visit: Visit, image: Path) -> None:
    visit.upload(image)
    visit.waits_for("Type the words to look for")
    bare = visit.picture()
    assert bare, "the picture is shown though there are no words yet"
    visit.type("cat, apple")
    visit.find()
    visit.waits_for("Found ")
    until(lambda: visit.picture() not in ("", bare))
    records = visit.records()
    assert records and {record["category_name"] for record in records} <= {"cat", "apple"}
    assert {record["image_id"] for record in records} == {image.name}
    assert all(record["score"] >= 0.3 for record in records)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y, _, _ in (record["bbox"] for record in records))


def test_moving_the_threshold_shows_less_and_does_not_detect(
    visit: Visit, page: Page, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit.type("cat")
    visit.upload(image)
    visit.waits_for("Found ")
    before, picture = visit.status(), visit.picture()
    asked: list[Any] = []
    monkeypatch.setattr(page.detector.predictor, "together", asked.append)
    number = visit.one("#threshold input[type=number]")
    visit.browser.execute_script(
        "arguments[0].value = 0.96; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
        "arguments[0].dispatchEvent(new Event('change', {bubbles: true}));",
        number,
    )
    until(lambda: visit.status() != before and visit.picture() != picture)
    visit.waits_for("Found ")
    records = visit.records()
    assert records and all(record["score"] >= 0.96 for record in records)
    assert not asked


def test_what_is_wrong_is_said_in_a_sentence(visit: Visit, image: Path, tmp_path: Path) -> None:
    visit.find()
    visit.waits_for("Drop a picture first.")
    letter = tmp_path / "letter.png"
    letter.write_text("Dear Sir or Madam,")
    visit.type("cat")
    visit.upload(letter)
    visit.waits_for("Image letter.png cannot be read")
    visit.upload(image)
    visit.waits_for("Found ")
    visit.type("cat, cat")
    visit.find()
    visit.waits_for('"cat" is named more than once.')
    visit.type(" , ")
    visit.find()
    visit.waits_for("Type the words to look for")


def test_the_words_come_back_when_the_page_is_loaded_again(visit: Visit, image: Path) -> None:
    visit.type("cat, apple")
    visit.upload(image)
    visit.waits_for("Found ")
    until(lambda: visit.browser.execute_script(f"return localStorage.getItem('{MEMORY}')"))
    visit.open()
    until(lambda: visit.one("#words textarea").get_attribute("value") == "cat, apple")
    assert visit.picture() == "", "pictures are not kept"


def test_two_visitors_with_different_words_do_not_mix(visit: Visit, image: Path) -> None:
    first = visit.browser.current_window_handle
    visit.browser.switch_to.new_window("window")
    second = visit.browser.current_window_handle
    visit.open()
    for window, words in ((first, "cat"), (second, "apple")):
        visit.browser.switch_to.window(window)
        visit.type(words)
        visit.upload(image)
    for window, words in ((second, "apple"), (first, "cat")):
        visit.browser.switch_to.window(window)
        visit.waits_for(f"× {words}")
        assert {record["category_name"] for record in visit.records()} == {words}
    visit.browser.switch_to.window(second)
    visit.browser.close()
    visit.browser.switch_to.window(first)


def test_neither_browser_nor_server_asks_another_host(visit: Visit, image: Path, connections: list[Any]) -> None:
    visit.type("cat")
    visit.upload(image)
    visit.waits_for("Found ")
    logged = (json.loads(entry["message"])["message"] for entry in visit.browser.get_log("performance"))
    asked = [entry["params"]["request"]["url"] for entry in logged if entry["method"] == "Network.requestWillBeSent"]
    assert any("/assets/" in url for url in asked)
    others = {url for url in asked if not url.startswith((visit.address, "data:", "blob:", "about:", "chrome"))}
    assert not others
    assert connections and {host for host, *_ in connections} <= {"127.0.0.1", "localhost"}


def test_the_server_tells_browsers_to_ask_no_other_host(page: Page) -> None:
    with urllib.request.urlopen(str(page.blocks.local_url)) as answer:
        policy = answer.headers["content-security-policy"]
        hosts = {urlsplit(word).netloc for word in policy.split() if "//" in word}
    assert "default-src 'self'" in policy and not hosts


def test_a_file_that_is_too_large_is_refused(visit: Visit, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(int(MEGABYTES * 2**20) + 1000))
    visit.type("cat")
    visit.upload(large)
    until(lambda: "size" in visit.browser.find_element("css selector", "body").text.lower())
    assert visit.picture() == ""


def test_visitors_at_once_each_get_their_words(page: Page, image: Path) -> None:
    def ask(words: str) -> set[str]:
        *_, sight, memory = page.find(str(image), TYPED, words, 0.3, None)
        assert sight is not None and memory["words"] == words
        return set(sight.found.names)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, ["cat", "apple", "fishing_boat"] * 3))
    assert found == [{"cat"}, {"apple"}, {"fishing_boat"}] * 3


@pytest.mark.parametrize("memory", [None, [], "words", {"choice": 3, "words": None, "threshold": "high"}])
def test_what_a_browser_brings_may_be_anything(page: Page, memory: Any) -> None:
    assert page.remember(memory) == (TYPED, "", 0.3)


def test_a_port_that_is_taken_is_named(page: Page) -> None:
    taken = urlsplit(str(page.blocks.local_url)).port
    with pytest.raises(OSError, match=f"127.0.0.1:{taken} cannot be opened"):
        Page(page.detector).open("127.0.0.1", taken, MEGABYTES)
