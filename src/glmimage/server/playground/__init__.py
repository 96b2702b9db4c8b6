"""The playground: a page for people, which uses the public API with the viewer's key."""
