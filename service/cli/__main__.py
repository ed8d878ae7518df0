"""`python -m service.cli` runs `sae-study`."""

from service.cli.app import main

main()
