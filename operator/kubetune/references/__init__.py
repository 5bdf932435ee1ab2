"""What a referenced job has made, whether it may be used where it is named, and why not. Pure."""
