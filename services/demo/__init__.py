"""The demonstration: a real conversation over real documents, and what must not go wrong."""
