"""`python -m langwright` is `langwright`."""

import sys

from langwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
