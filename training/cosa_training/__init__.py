"""CoSAlign and what else is trained: imports torch, and is imported by nothing that ships."""
