"""`python -m hesscope` is the command line."""

import sys

from hesscope.cli import main

sys.exit(main())
