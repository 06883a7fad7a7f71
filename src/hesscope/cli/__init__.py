"""The command line: `hesscope COMMAND`, each in a file of its own."""

from hesscope.cli.commands import main as main
from hesscope.cli.commands import run as run
