"""The charts as Helm renders them, and as an API server takes them. Nothing here runs a pod."""
