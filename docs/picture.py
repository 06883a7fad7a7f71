"""The picture of a report on the first page: `make picture`. Needs Chromium, and is committed.

The look of the first page is written as HTML, photographed without a window and reduced to 128
colours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from torch.nn.functional import cross_entropy

import hesscope as hs
from hesscope.demo import digits, trained_network

PICTURE = Path(__file__).parent / "_static" / "report.png"
WIDTH, HEIGHT, LARGEST = 1000, 860, 150_000  # pixels, bytes
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def photograph(page: Path, picture: Path) -> None:
    """The top of the page, as it is seen first."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found: install one of {', '.join(BROWSERS)}")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=5000"]
    command += [f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        page, raw = Path(folder) / "report.html", Path(folder) / "raw.png"
        inputs, labels = digits()
        model = trained_network(inputs, labels)
        problem = hs.Problem(model, cross_entropy, (inputs, labels))
        hs.diagnose(problem, lr=1.0, seed=0).to_html(page)
        photograph(page, raw)
        few = Image.open(raw).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {WIDTH} x {HEIGHT}, {size:,} bytes")
    if size > LARGEST:
        sys.exit(f"above {LARGEST:,} bytes: fewer colours, or a smaller window")


if __name__ == "__main__":
    main()
