"""What the service says of itself: numbers, logs, traces."""
