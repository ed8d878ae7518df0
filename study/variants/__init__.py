"""SAE variants, one file each."""
