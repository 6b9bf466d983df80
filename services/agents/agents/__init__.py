"""The agents: one small class for each way of answering."""
