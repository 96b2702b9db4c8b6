"""Many requests at once: engine (add, step, abort), scheduler (policy), runner (execution)."""
