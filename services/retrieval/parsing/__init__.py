"""Documents of every format to text; what parses untrusted bytes runs in processes of its own."""
