"""Better weights for integers. The networks stay what they are: the same architecture, other numbers."""
