"""``python -m tokensieve``."""

from tokensieve.core.cli import main

if __name__ == "__main__":
    main()
