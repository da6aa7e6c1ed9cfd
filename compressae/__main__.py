"""``python -m compressae``."""

from compressae.cli import main

if __name__ == "__main__":
    main()
