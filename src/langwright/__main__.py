"""`python -m langwright` equals `langwright`."""

import os
import sys

from langwright.cli import main

if __name__ == "__main__":
    code = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # gloo's threads may abort a process while the interpreter is torn down, and torchrun ends all ranks then.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
