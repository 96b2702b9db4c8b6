"""The networks of GLM-Image as plain torch modules, and what loads them."""
