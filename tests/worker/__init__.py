"""Worker tests; a package, so that the worker they share ends with them."""
