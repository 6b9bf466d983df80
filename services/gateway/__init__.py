"""The public gRPC API: who calls, whether the request is well formed, and where it goes."""
