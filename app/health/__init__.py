"""Whether the service can do its work, for machines and for the person on call."""
