"""A real browser without a window: what a page looks like to it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium or google-chrome on PATH")

_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync",
)  # fmt: skip
# Runs in a copy of the page, without its policy, which forbids all scripts.
_PROBE = """<script>window.addEventListener('load', async () => {
  document.querySelectorAll('details').forEach(one => { if (!one.closest('header')) one.open = true; });
  const rules = [...document.styleSheets].flatMap(sheet => [...sheet.cssRules]);
  const backgrounds = rules.map(rule => rule.style?.backgroundImage ?? '').filter(text => text.startsWith('url'));
  const loaded = backgrounds.map(text => { const one = new Image(); one.src = text.slice(5, -2); return one; });
  const images = [...document.images, ...loaded];
  const broken = (await Promise.allSettled(images.map(one => one.decode()))).filter(one => one.status != 'fulfilled');
  parent.postMessage(JSON.stringify({
    hacked: window.hacked ?? null, images: images.length, broken: broken.length,
    backgrounds: backgrounds.length,
    bare: [...document.querySelectorAll('.pic')].filter(i => getComputedStyle(i).backgroundImage == 'none').length,
    width: document.documentElement.scrollWidth, room: document.documentElement.clientWidth,
    requests: performance.getEntriesByType('resource').map(one => one.name).filter(name => !name.startsWith('data:')),
    cells: [...document.querySelectorAll('td, th')].map(one => one.innerText.trim()),
    text: document.body.innerText,
  }), '*');
});</script>"""
_FRAME = """<body style="margin:0"><pre id="said"></pre>
<iframe src="{page}" style="border:0;width:{width}px;height:900px"></iframe>
<script>onmessage = event => document.getElementById('said').textContent = event.data</script>"""


def look(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """What a browser finds on the page, all that folds opened, in a window of so many pixels."""
    assert BROWSER is not None
    folder.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", page.read_text(encoding="utf-8"))
    (folder / "probe.html").write_text(text.replace("</body>", _PROBE + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(_FRAME.format(page="probe.html", width=width), encoding="utf-8")
    command = [BROWSER, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", "--dump-dom"]
    for milliseconds in (20_000, 100_000, 500_000):  # virtual ones; a busy machine decodes few images in them
        words = [*command, f"--virtual-time-budget={milliseconds}", (folder / "frame.html").as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
        if said := re.search(r'<pre id="said">(.+?)</pre>', done.stdout, re.DOTALL):
            found: dict[str, Any] = json.loads(unescape(said[1]))
            return found
    raise AssertionError(done.stdout[:2000] + done.stderr[-2000:])


class Parsed(HTMLParser):
    """A page as Python's parser has it: tags with their attributes, and the rows of all tables."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._cell = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data
