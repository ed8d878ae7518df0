"""Situations that need a whole process: a namespace, a small disk, a quota, a signal. `make test-field` runs them."""
