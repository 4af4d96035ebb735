"""What several test modules stand on: small checkpoints, real services, and doubles for unit tests."""
