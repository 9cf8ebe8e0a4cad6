"""``python -m tokensieve``."""

from tokensieve.core.cli.entry import program

if __name__ == "__main__":
    program()
