"""``python -m tokensieve``."""

from tokensieve.core.entry import program

if __name__ == "__main__":
    program()
