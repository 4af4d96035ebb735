"""What runs in processes that are not trusted: a model's code and its judge, and a model's tokenizer.

Imports nothing but the standard library and this package, and transformers for the tokenizer.
"""
