"""`python -m remoterun`."""

import sys

from remoterun.cli.main import main

sys.exit(main())
