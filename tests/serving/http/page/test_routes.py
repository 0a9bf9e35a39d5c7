"""The page without a browser: what is sent, with which headers, and what its files hold."""

import asyncio
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from recurrentgemma.counts import state_bytes
from serving.engine.thread import EngineThread
from serving.http.page.routes import facts, files
from serving.http.server import create_app

ROOT = Path(__file__).parents[4]
FILES = files()
TEXTS = {name: content.decode() for name, content in FILES.items()}
VOID = {"meta", "link", "input"}


class Elements(HTMLParser):
    """(tag, attributes, text) of every element."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.elements[place][2].append(data)


@pytest.fixture(scope="module")
def elements():
    parser = Elements()
    parser.feed(TEXTS["index.html"])
    assert not parser._open
    return parser.elements


def test_every_file_is_sent_with_the_policy(ask):
    assert ask("GET", "/").content == FILES["index.html"]
    for name, content in FILES.items():
        answer = ask("GET", f"/page/{name}")
        assert (answer.status_code, answer.content) == (200, content)
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert ask("GET", "/page/main.mjs").headers["content-type"].startswith("text/javascript")
    for name in ("none.mjs", "routes.py", "..%2fserver.py", "../server.py"):
        assert ask("GET", f"/page/{name}").status_code == 404


def test_nothing_comes_from_elsewhere(elements):
    for name, text in TEXTS.items():
        places = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)
        assert [one for one in places if one != "http://www.w3.org/2000/svg"] == [], name
    loaded = [a.get("src") or a.get("href") for tag, a, _ in elements if tag in ("script", "link")]
    assert loaded
    for path in loaded:
        assert path is not None
        assert path.removeprefix("/page/") in FILES
    for name, text in TEXTS.items():
        for imported in re.findall(r'^import .* from "(.*)";$', text, re.MULTILINE):
            assert imported.removeprefix("./") in FILES, name


def test_the_policy_stops_nothing_of_the_page(elements):
    """No script, style or handler inside of it."""
    for tag, attributes, text in elements:
        assert tag != "style"
        assert tag != "script" or not "".join(text).strip()
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    for name, text in TEXTS.items():
        assert not re.findall(r"innerHTML|insertAdjacentHTML|outerHTML|\beval\(", text), name


def test_every_control_has_a_name(elements):
    labelled = {attributes.get("for") for tag, attributes, _ in elements if tag == "label"}
    controls = 0
    for tag, attributes, text in elements:
        if tag in ("input", "select", "textarea"):
            assert attributes["id"] in labelled
            controls += 1
        if tag == "button":
            assert "".join(text).strip()
            assert (
                attributes.get("type") == "submit"
                or attributes.get("role")
                or (attributes["type"] == "button")
            )
            controls += 1
        if tag in ("nav", "aside", "section"):
            assert "aria-label" in attributes or "aria-labelledby" in attributes
    assert controls > 20
    ids = [attributes["id"] for _, attributes, _ in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in elements:
        for name in ("for", "aria-labelledby", "aria-controls", "aria-describedby"):
            assert name not in attributes or attributes[name] in ids
    asked = {one for text in TEXTS.values() for one in re.findall(r'element\("([\w-]+)"\)', text)}
    assert asked
    assert asked <= set(ids), "a script asks for what is not there"


def test_what_the_page_shows_of_the_model(griffin, language_model):
    shown = facts(griffin, "griffin")
    assert shown["state_bytes"] == state_bytes(griffin.lm.config)
    assert (shown["chats"], shown["text"], shown["grows"], shown["slots"]) == (True, True, False, 3)


def test_while_the_model_loads():
    app = create_app(EngineThread(lambda: None, max_waiting=1), model_name="m")  # type: ignore[arg-type, return-value]

    async def ask() -> tuple[int, int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = [await client.get(path) for path in ("/", "/page/about.json")]
            return answers[0].status_code, answers[1].status_code

    assert asyncio.run(ask()) == (200, 503)


def test_every_file_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["serving.http.page"]
    folder = ROOT / "serving/http/page"
    packed = {path.name for pattern in patterns for path in folder.glob(pattern)}
    assert packed == set(FILES)
    assert packed == {path.name for path in folder.iterdir() if path.suffix not in (".py", "")}
