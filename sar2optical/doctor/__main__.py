"""One check, for the process that asked for it."""

import sys

from sar2optical.doctor.examine import answer_with

if __name__ == "__main__":
    answer_with(sys.argv[1])
