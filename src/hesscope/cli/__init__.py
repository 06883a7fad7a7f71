"""The command line: hesscope demo | check | diagnose | spectrum | slice | show."""

from hesscope.cli.commands import main as main
from hesscope.cli.commands import run as run
