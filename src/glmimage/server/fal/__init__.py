"""fal's wire protocol for the two GLM-Image endpoints."""
