"""`python -m sar2optical.doctor NAME`: run one check for the process that started this one."""

import sys

from sar2optical.doctor.examine import run_check

if __name__ == "__main__":
    run_check(sys.argv[1])
