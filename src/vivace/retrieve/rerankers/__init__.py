"""How well does each passage answer? Cross-encoders in this process, and servers of them."""
