"""What "good" means per task."""
