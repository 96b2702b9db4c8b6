"""The HTTP server: fal's API over the job store. It never imports torch."""
