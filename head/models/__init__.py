"""Every kind of head."""
