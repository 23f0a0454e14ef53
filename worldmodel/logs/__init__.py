"""Raw logs to episodes, one file a format."""
