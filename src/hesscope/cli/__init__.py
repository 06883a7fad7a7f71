"""The command line: hesscope demo | check | diagnose | spectrum | slice | watch | report | show."""

from hesscope.cli.commands import main as main
from hesscope.cli.commands import run as run
