"""The demonstration: real conversations, and what must not go wrong in them."""
