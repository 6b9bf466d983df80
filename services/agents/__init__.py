"""Workers that run turns: jobs in from the bus, a model called, answers out."""
