"""One file a task: what is built, what is observed, what is rewarded, when it ends."""
