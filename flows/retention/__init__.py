"""What a store keeps: what is shipped and what a person pinned; everything else is for `containers.store.sweep` to judge."""
