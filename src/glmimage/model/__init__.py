"""The networks of GLM-Image as plain torch modules, their schedule and their sampling."""
