"""What is inside a model file: operators, costs, memory, precision, and what each phone runtime will make of it."""
