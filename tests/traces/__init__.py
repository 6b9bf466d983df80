"""What an operator sees of a deployment: traces, metrics, logs."""
