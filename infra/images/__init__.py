"""The container images: locked inputs, builds without a network, and a check that two builds are identical.

`targets` defines the images, `context` writes the build context, `image_builder` builds with buildah, `verify` builds twice
and compares, `local_engine` loads images into the container engine.
"""
