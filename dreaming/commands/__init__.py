"""What the console scripts do, once their arguments are parsed."""
