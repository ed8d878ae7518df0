"""`python -m service.cli` runs `sae-study`."""

from service.cli import main

main()
