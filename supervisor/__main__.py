"""`python -m supervisor` is the program `supervisor`."""

import sys

from supervisor.cli import main

sys.exit(main())
