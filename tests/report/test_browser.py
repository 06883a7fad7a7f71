"""The page in a real browser: no error, no request, nothing that came in as text is run."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

import hesscope as hs
from hesscope import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
HOSTILE = "<script>document.title = 'run'; console.error('run')</script>"


def browse(page: Path, folder: Path) -> tuple[str, str, set[str]]:
    """The document as the browser has it, its console, and the addresses it asked for."""
    log = folder / "net.json"
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
            "--proxy-server=127.0.0.1:9", "--disable-background-networking",
            "--disable-component-update", "--no-first-run",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    events = json.loads(log.read_text("utf-8"))["events"]
    urls = {event.get("params", {}).get("url", "") for event in events}
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console, {url for url in urls if url}


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> tuple[str, str, set[str]]:
    folder = tmp_path_factory.mktemp("browser")
    pairs = hs.eigsh(hs.as_operator(torch.diag(torch.linspace(-1, 9, 60).double())), 4)
    verdicts = [hs.Verdict("layers", f"a layer named {HOSTILE}", {HOSTILE: 1.0}, finding=True)]
    page = report.write(folder / "page.html", "a page", verdicts, {HOSTILE: pairs}, "4 matvecs")
    return browse(page, folder)


def test_there_is_no_error_on_the_console(seen):
    assert seen[1] == ""


def foreign_hosts(urls: set[str]) -> set[str]:
    """Hosts that the page asked for; the browser's own search for updates is not the page's."""
    hosts = {urlsplit(url).hostname for url in urls if url.startswith(("http", "ws"))}
    own = ("google.com", "googleapis.com", "gvt1.com")
    return {host for host in hosts if host and not host.endswith(own)}


def test_nothing_is_asked_for(seen):
    assert foreign_hosts(seen[2]) == set()


def test_a_page_that_asks_for_something_would_be_noticed(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<img src='http://elsewhere.invalid/x.png'>")
    assert foreign_hosts(browse(page, tmp_path)[2]) == {"elsewhere.invalid"}


def test_a_layer_named_like_a_script_stays_text(seen):
    document = seen[0]
    assert "<title>a page</title>" in document
    assert document.count("<script>") == 1
    assert "a layer named &lt;script&gt;document.title" in document


ACTS = """
const done = {};
const table = document.querySelector(".table table:has(thead th.n)");
const head = [...table.tHead.rows[0].cells].find((one) => one.textContent === "residual");
const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex]);
const column = () => cells().map((cell) => Number(cell.dataset.value));
head.querySelector("button").click();
done.up = [head.getAttribute("aria-sort"), column()];
head.querySelector("button").click();
done.down = [head.getAttribute("aria-sort"), column()];
const press = (key) => charts[0].plot.dispatchEvent(new KeyboardEvent("keydown", { key }));
const texts = () => charts[0].svg.textContent;
press("Home");
done.first = charts[0].read.textContent;
press("ArrowRight");
done.second = charts[0].read.textContent;
const whole = texts();
press("+");
done.zoomed = [charts[0].reset.hidden, texts() === whole];
press("Escape");
done.back = [charts[0].reset.hidden, texts() === whole];
const tools = [...document.querySelectorAll("figure .tool")];
done.tools = tools.map((one) => one.getAttribute("aria-label").split(":")[0]);
done.csv = csv(rowsOf(charts[0].spec));
document.title = JSON.stringify(done);
"""


def test_tables_sort_and_figures_are_read_zoomed_and_copied(tmp_path):
    values = torch.linspace(-1, 9, 60, dtype=torch.float64)
    pairs = hs.eigsh(torch.diag(values), 4, seed=0)
    path = report.write(tmp_path / "page.html", "a page", [], {"pairs": pairs}, "4 matvecs")
    page = path.read_text("utf-8").replace("</body>", f"<script>{{{ACTS}}}</script></body>")
    path.write_text(page, "utf-8")
    document, console, _ = browse(path, tmp_path)
    assert console == ""
    done = json.loads(html.unescape(re.search("<title>(.*?)</title>", document).group(1)))
    residuals = sorted(pairs.residuals.tolist())
    assert done["up"] == ["ascending", residuals]
    assert done["down"] == ["descending", residuals[::-1]]
    assert done["first"].startswith("eigenvalue ± residual: 9, between ")
    assert done["second"].endswith("at 2")
    assert (done["zoomed"], done["back"]) == ([False, False], [True, True])
    assert [label.split(":")[0] for label in done["tools"]] == [
        "Show all",
        "Copy as CSV",
        "Save as SVG",
    ]
    head, first, *_ = done["csv"].splitlines()
    assert head == "series,rank,eigenvalue,at least,at most"
    assert first.split(",")[:3] == ["eigenvalue ± residual", "1", "9"]
