"""Client tests; a package, so that the service they share ends with them."""
