"""Weight transports: how the servers get the policy's new weights."""
