"""The page in headless Chromium, through Playwright, where both are installed (`make browser`)."""

import importlib.util
import re
import shutil
from typing import Any

import pytest

from serving.features.sessions import Sessions
from serving.http.options import ServerOptions
from serving.http.server import create_app

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
MISSING = [
    name
    for name, there in (
        ("playwright", importlib.util.find_spec("playwright")),
        ("Chromium", CHROMIUM),
    )
    if not there
]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: `make browser` says how"
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
  };
  return [...document.querySelectorAll("h1, h2, p, label, dt, button:not(:disabled), a, .small")]
    .filter((e) => e.checkVisibility() && e.textContent.trim())
    .map((e) => {
      const pair = [light(getComputedStyle(e).color), light(ground(e))].sort();
      return [e.id || e.textContent.slice(0, 20), pair[1] / pair[0]];
    });
}"""


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def kept(griffin, tmp_path) -> Sessions:
    """The sessions of the page's server."""
    return Sessions(tmp_path, griffin.lm)


@pytest.fixture
def page(chromium, griffin, kept, tmp_path, running_thread, running_server):
    """The page of a server over the small Griffin; nothing may go wrong in its console, and nothing
    may be asked of another server."""
    options = ServerOptions(sessions=tmp_path)
    with (
        running_thread(lambda: griffin, 8) as thread,
        running_server(create_app(thread, model_name="griffin", options=options)) as url,
    ):
        page = chromium.new_page()
        page.set_default_timeout(20_000)
        problems: list[Any] = []
        page.on("pageerror", lambda error: problems.append(error))
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.on("request", lambda r: r.url.startswith(url) or problems.append(r.url))
        page.goto(url)
        shows(page, "server", "^ready")
        yield page
        page.close()
    refused = "400 (Bad Request)"  # which one of the tests asks for
    assert [one for one in problems if refused not in str(one)] == []


def shows(page, id: str, pattern: str) -> None:
    """Wait until an element's text matches."""
    from playwright.sync_api import expect  # type: ignore[import-not-found]

    expect(page.locator(f"#{id}")).to_have_text(re.compile(pattern), timeout=20_000)


def ask(page, text: str, *, most: int = 12) -> None:
    page.get_by_label("Most tokens").fill(str(most))
    page.locator("#ask").fill(text)
    page.keyboard.press("Control+Enter")
    shows(page, "said", "^Done")


def seen(page) -> int:
    return int(page.locator("#tokens-seen").text_content().replace(",", ""))


def test_a_completion_with_probabilities(page, griffin):
    assert page.title() == "griffin – Griffin playground"
    size = page.locator("#state-size").text_content()
    assert size.split()[1] in ("bytes", "kB")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Show probabilities").check()
    prompt = "<img src=x onerror=alert(1)> O "
    ask(page, prompt)
    shown = page.locator("#completion").text_content()
    assert shown == prompt + griffin.lm.generate(prompt, max_tokens=12, temperature=0)
    assert page.locator("#completion img").count() == 0  # text is text
    first = seen(page)
    assert first == len(griffin.lm.tokenizer.encode(prompt)) + 12
    tokens = page.locator("#completion .token")
    assert tokens.count() == 12
    tokens.first.hover()
    table = page.locator("#token table")
    assert table.locator("tr").count() >= 5
    chances = [float(one.rstrip(" %")) for one in table.locator("td").all_text_contents()]
    assert chances == sorted(chances, reverse=True)
    page.locator("#completion").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.token')[1]")
    page.get_by_role("button", name="Go on").click()
    tokens.nth(23).wait_for()
    shows(page, "said", "^Done")
    assert seen(page) > first
    assert page.locator("#state-size").text_content() == size  # it does not move


def test_a_chat_by_keyboard(page, griffin):
    page.get_by_role("tab", name="Completion").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Chat").get_attribute("aria-selected") == "true"
    assert page.get_by_role("tab", name="Chat").evaluate("e => e === document.activeElement")
    page.get_by_label("Temperature").fill("0")
    for text in ("Hello", "And now?"):
        ask(page, text)
    messages = page.locator("#messages li")
    assert messages.count() == 4
    answer = messages.nth(1).locator("div").text_content()
    first = [{"role": "user", "content": "Hello"}]
    assert answer == griffin.lm.chat(first, max_tokens=12, temperature=0)
    page.get_by_role("button", name="Clear").click()
    assert (messages.count(), seen(page)) == (0, 0)


def test_what_is_wrong_is_told_and_an_answer_can_be_stopped(page, griffin, wait_until):
    alert = page.get_by_role("alert")
    page.get_by_label("Top p").fill("7")
    page.locator("#ask").fill("a")
    page.get_by_role("button", name="Generate").click()
    assert "Top p" in alert.text_content()
    assert page.evaluate("document.activeElement.id") == "top_p"
    page.get_by_label("Top p").fill("1")
    page.get_by_label("Temperature").fill("0")  # goes in circles, and never stops
    page.get_by_label("Most tokens").fill("100000")
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Stop").wait_for()
    shows(page, "completion", r"[\s\S]{20}")
    page.keyboard.press("Escape")
    shows(page, "said", "^Stopped.$")
    wait_until(lambda: not griffin.busy)
    page.get_by_label("Seed").fill("9" * 30)  # of the right form, and the server refuses it
    page.get_by_role("button", name="Generate").click()
    shows(page, "mistake", "seed")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(page, scheme):
    """Contrast of text as WCAG asks for it, names of all controls, nothing off a narrow screen."""
    page.emulate_media(color_scheme=scheme)
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 20
    assert [one for one in ratios if one[1] < 4.5] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 25)"
    assert dark == (scheme == "dark")
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= 360")
    names = page.locator("input, select, textarea, button").evaluate_all(
        "all => all.map(e => e.labels?.[0]?.textContent || e.textContent)"
    )
    assert all(name.strip() for name in names)


def test_a_session_of_the_page(page, griffin, kept):
    """Begun, gone on with, forked and deleted; another visit finds it."""
    page.get_by_role("tab", name="Chat").click()
    page.get_by_label("New name").fill("alice")
    page.get_by_role("button", name="Begin").click()
    shows(page, "said", "begins session alice")
    ask(page, "Hello")
    shows(page, "session-size", "on disk")
    first = seen(page)
    ask(page, "And now?")
    shows(page, "tokens-seen", f"^{kept.point('alice').count}$")
    assert seen(page) > first
    assert kept.names() == ["alice"]
    page.get_by_label("New name").fill("bob")
    page.get_by_role("button", name="Fork").click()
    shows(page, "said", "Session bob is a copy of alice")
    assert kept.names() == ["alice", "bob"]
    page.reload()
    shows(page, "server", "^ready")
    page.get_by_role("tab", name="Chat").click()
    page.get_by_label("Go on with").select_option("bob")
    page.locator("#messages li").nth(3).wait_for()
    assert page.locator("#messages li div").first.text_content() == "Hello"
    page.get_by_role("button", name="Delete").click()
    shows(page, "said", "Session bob is deleted")
    assert kept.names() == ["alice"]
