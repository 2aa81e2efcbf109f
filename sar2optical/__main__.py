"""`python -m sar2optical COMMAND`."""

from sar2optical.cli.group import main

if __name__ == "__main__":
    main(prog_name="sar2optical")
