"""The container images: locked inputs, builds without a network, and the proof that two builds are one.

`targets` says what each image holds, `context` lays its inputs out, `builder` has buildah build them, `verify` does so twice.
"""
