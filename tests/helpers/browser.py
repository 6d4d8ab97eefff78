"""Pages in a real browser: headless Chromium, no driver, the DOM read back as text."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# A page around the report that drives it as a hand would, and writes down what it then sees.
HARNESS = """<!doctype html><meta charset="utf-8"><pre id="seen"></pre>
<iframe id="frame" src="%(address)s" style="width: %(width)dpx; height: 844px; border: 0"></iframe>
<script>
document.getElementById("frame").addEventListener("load", (event) => {
  const page = event.target.contentDocument;
  const say = (text) => { document.getElementById("seen").textContent = text; };
  const change = (id, value, kind) => {
    page.getElementById(id).value = value;
    page.getElementById(id).dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const shown = (name) =>
    [...page.querySelectorAll(`article.${name}:not([hidden]) h3`)].map((h) => h.textContent);
  try { say(JSON.stringify((() => { %(steps)s })())); } catch (error) { say(String(error)); }
});
</script>"""


def browser() -> str:
    """The Chromium at hand."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    pytest.fail("no Chromium found: install the package `chromium` (apt-get install chromium)")


def dumped(address: str, home: Path, *options: str) -> str:
    """The document at an address after its scripts ran, as HTML."""
    home.mkdir()
    done = subprocess.run(
        [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            f"--user-data-dir={home}",
            *options,
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def driven(report: Path, tmp_path: Path, steps: str, *, fragment: str = "", width: int = 1280):
    """What JavaScript `steps` return, run beside the report with `page`, `change`, `shown`."""
    harness = tmp_path / "harness.html"
    address = report.as_uri() + fragment
    harness.write_text(HARNESS % {"address": address, "width": width, "steps": steps})
    # by default every file is an origin of its own, and the harness could not look in
    option = "--allow-file-access-from-files"
    page = dumped(harness.as_uri(), tmp_path / "home", option)
    (seen,) = re.findall(r'<pre id="seen">(.*?)</pre>', page, re.DOTALL)
    return json.loads(unescape(seen))


POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
WATCH = """<script>
window.errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
</script>"""
# axe looks at what is drawn, so the page has to be in a window of the width that is asked for
AUDIT = """<script>
addEventListener("load", () => axe.run().then((found) => {
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  const root = document.documentElement;
  parent.document.getElementById("seen").textContent = JSON.stringify({
    violations: found.violations.map((one) =>
      one.id + ": " + one.nodes.slice(0, 3).map((node) => node.target.join(" ")).join("; ")),
    rules: found.passes.length, errors: errors, dark: matchMedia(DARK).matches,
    twice: ids.filter((id, place) => ids.indexOf(id) !== place),
    width: root.clientWidth,
    over: [...document.body.querySelectorAll("*")].filter((element) =>
      element.getBoundingClientRect().right > root.clientWidth + 1).map((element) =>
      element.tagName + "." + element.className),
    outside: [...document.querySelectorAll("[src], link[href]")]
      .map((element) => element.src || element.href).filter((at) => !at.startsWith("data:")),
  });
}));
</script>""".replace("DARK", '"(prefers-color-scheme: dark)"')
FRAME = """<!doctype html><meta charset="utf-8"><title>audit</title><pre id="seen"></pre>
<iframe title="page" src="%s" style="width: %dpx; height: 900px; border: 0"></iframe>"""


def audited(page: Path, tmp_path: Path, *, width: int, dark: bool = False) -> dict[str, Any]:
    """What axe and the window say of a page: violations, script errors, what reaches
    over the edge, ids that stand there twice.

    The copy that is looked at lacks the page's security policy, which would keep axe out.

    Args:
        page: a self-contained HTML file.
        tmp_path: for the copy.
        width: of the window, in CSS pixels.
        dark: whether the reader prefers dark pages.
    """
    spec = find_spec("axe_playwright_python")
    assert spec and spec.origin, "install axe-playwright-python without its dependencies"
    axe = (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")
    text, removed = POLICY.subn("", page.read_text("utf-8"))
    assert removed == 1
    assert "</body>" not in axe
    text = text.replace("<head>", f"<head>{WATCH}", 1)
    text = text.replace("</body>", f"<script>{axe}</script>{AUDIT}</body>")
    (tmp_path / "copy.html").write_text(text, "utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % ((tmp_path / "copy.html").as_uri(), width))
    options = ["--allow-file-access-from-files", "--virtual-time-budget=60000"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    home = tmp_path / f"home-{width}-{dark}"
    seen = re.findall(
        r'<pre id="seen">(.*?)</pre>', dumped(frame.as_uri(), home, *options), re.DOTALL
    )
    assert seen and seen[0], "axe did not come to an end"
    return json.loads(unescape(seen[0]))
