"""Data: sources become one array of images, labels, and fixed train / validation / test splits."""
