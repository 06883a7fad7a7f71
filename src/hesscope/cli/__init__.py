"""The command line: hesscope demo | check | diagnose | spectrum | slice | show."""

from hesscope.cli.commands import main as main
