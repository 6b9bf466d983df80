"""The models that can answer."""
