"""The command line: hesscope demo | check | diagnose | spectrum | show."""

from hesscope.cli.commands import main as main
