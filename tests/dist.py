"""`python -m tests.dist` looks into dist/ before it is released; `--install` also installs it.

The wheel goes into a clean environment, first alone and then with one extra after another, each of
which has to bring what it promises; what needs an extra has to say so before it is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
EXTRAS = ("plot", "report", "demo")  # the small ones, each with all of the one before
IN_WHEEL = (
    "hesscope/__init__.pyi",
    "hesscope/py.typed",
    "hesscope/report/page.html",
    "hesscope/report/curves.js",
    "hesscope/report/figures.js",
    "hesscope/report/style.css",
    "hesscope/report/terms.toml",
)
IN_SDIST = ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", "Makefile")
TARGET = """
import torch, hesscope as hs

def problem():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    data = torch.randn(40, 4), torch.arange(40) % 3
    return hs.Problem(model, torch.nn.functional.cross_entropy, data)
"""
CORE = """
import importlib.metadata, torch, hesscope as hs
assert hs.__version__ == importlib.metadata.version("hesscope")
top = hs.eigsh(torch.diag(torch.arange(50.0)), 2)
assert [round(float(value)) for value in top.eigenvalues] == [49, 48]
"""


def look_into(wheel: Path, sdist: Path) -> list[str]:
    """What is missing, and what has no business there."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(about).decode())
    licences = [name for name in names if "/licenses/" in name]
    wrong = [f"{wheel.name} lacks {name}" for name in IN_WHEEL if name not in names]
    wrong += [f"{wheel.name} has {name}" for name in names if not name.startswith("hesscope")]
    wrong += [f"{wheel.name} has {name}" for name in names if "test" in name or ".pyc" in name]
    if len(licences) != len(metadata.get_all("License-File", ())) or not licences:
        wrong.append(f"{wheel.name} has the licences {licences}")
    ours = {str(path.relative_to(ROOT / "src")) for path in files_of(ROOT / "src/hesscope")}
    wrong += [f"{wheel.name} lacks {name}" for name in sorted(ours - set(names))]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wrong += [f"{sdist.name} lacks {name}" for name in IN_SDIST if name not in inside]
    parts = ("src", "tests", "docs", "examples")
    own = {str(path.relative_to(ROOT)) for part in parts for path in files_of(ROOT / part)}
    return wrong + [f"{sdist.name} lacks {name}" for name in sorted(own - inside)]


def files_of(folder: Path) -> Iterable[Path]:
    """What git keeps of a folder."""
    command = ["git", "ls-files", "-z", str(folder)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in told.split("\0") if name]


class Clean:
    """An environment with nothing but the wheel, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        (folder / "job.py").write_text(TARGET)

    def install(self, *what: str) -> None:
        command = [self.bin / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*command, "-c", ROOT / "constraints.txt", *what], check=True)

    def hesscope(self, *arguments: str, status: int = 0) -> str:
        """What a command prints, of which the exit status has to be this."""
        return self._run([self.bin / "hesscope", *arguments], status)

    def python(self, code: str) -> str:
        return self._run([self.bin / "python", "-c", code], 0)

    def _run(self, command: list[str | Path], status: int) -> str:
        bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            command, cwd=self.folder, env=bare, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        if done.returncode != status:
            sys.exit(f"{command} ended with {done.returncode}, not {status}:\n{said}")
        return said


def use(wheel: Path) -> None:
    """Installs the wheel, alone and with its extras, and uses what each brings."""
    with tempfile.TemporaryDirectory() as name:
        clean = Clean(Path(name))
        clean.install("torch")
        clean.install(str(wheel))
        clean.python(CORE)
        assert "diagnose" in clean.hesscope("--help")
        assert json.loads(clean.hesscope("spectrum", "job.py:problem", "--k", "1", "--json"))
        assert "chance level" in clean.hesscope("diagnose", "job.py:problem", status=1)
        hints = {
            "plot": ("slice", "job.py:problem", "--points", "3", "--figure", "line.png"),
            "report": ("spectrum", "job.py:problem", "--k", "1", "--report", "page.html"),
            "demo": ("demo",),
        }
        for extra in EXTRAS:  # torch brings jinja2, so that the plots' extra makes pages, too
            said = clean.hesscope(*hints[extra], status=2)
            if f"pip install 'hesscope[{extra}]'" not in said:
                sys.exit(f"without hesscope[{extra}] it says: {said}")
        for extra in EXTRAS:
            clean.install(f"{wheel}[{extra}]")
            clean.hesscope(*hints[extra])
            print(f"hesscope[{extra}]: asked for before it is there, and suffices")
        assert all((clean.folder / name).stat().st_size for name in ("line.png", "page.html"))
        clean.hesscope("slice", "job.py:problem", "--points", "3", "--figure", "plane.html")


def main(arguments: list[str]) -> int:
    """1 if something is wrong with what is to be released."""
    wheels, sdists = sorted(DIST.glob("*.whl")), sorted(DIST.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        print(f"{DIST} holds {len(wheels)} wheels and {len(sdists)} sdists, not one of each")
        return 1
    wrong = look_into(wheels[0], sdists[0])
    print("\n".join(wrong) or f"{wheels[0].name} and {sdists[0].name}: all that belongs there")
    if not wrong and "--install" in arguments:
        use(wheels[0])
        print(f"{wheels[0].name}: installed alone and with {', '.join(EXTRAS)}, and used")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
