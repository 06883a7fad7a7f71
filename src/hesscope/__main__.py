"""`python -m hesscope`, the same as the `hesscope` command."""

import os
import sys

if sys.path and sys.path[0] == os.getcwd():  # noqa: PTH109  put there by -m: a json.py in it would
    del sys.path[0]  # hide Python's own; the target's folder is searched later, and last

from hesscope.cli import run

if __name__ == "__main__":
    run()
