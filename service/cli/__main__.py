"""`python -m service.cli`: as `sae-study`."""

from service.cli.app import main

main()
