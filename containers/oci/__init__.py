"""Modelcars: OCI images with a checkpoint under /models, built, written, read and checked without a container engine."""
