"""How a student is taught: from a teacher, from peers, or from itself."""
