"""Code that all operations share: checks, registration, sharding rules. It imports nothing but PyTorch."""
