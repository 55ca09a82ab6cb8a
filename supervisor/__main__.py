"""`python -m supervisor` is the program `supervisor`."""

import sys

from supervisor.entry import main

sys.exit(main())
