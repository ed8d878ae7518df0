"""SAE variants, one file each: `contract.py` says what a variant is, `registry.py` lists them."""
