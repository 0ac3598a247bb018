"""One function per command: read, call the floors below, write, leave a sidecar."""
