"""Browser tests; a package, so that what they share of scope "package" ends with them."""
