"""Questions that are answered by calling functions, and what counts as the right calls."""
