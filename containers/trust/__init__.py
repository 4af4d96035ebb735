"""Signatures and statements about models: making them, reading them, and deciding by a policy what may be served."""
