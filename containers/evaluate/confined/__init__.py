"""What runs inside the sandbox for generated code. Imports nothing but the standard library and this package."""
