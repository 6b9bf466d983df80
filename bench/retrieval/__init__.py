"""How well the retrieval service finds, and at what price."""
