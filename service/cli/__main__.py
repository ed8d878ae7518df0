"""`python -m service.cli`: as `sae-study`."""

import sys

from service.cli.app import main

sys.exit(main())
