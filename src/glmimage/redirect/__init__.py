"""Let a program written for the hosted service talk to this one, unchanged."""
