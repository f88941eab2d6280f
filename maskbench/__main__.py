"""python -m maskbench"""

from maskbench.cli.main import main

if __name__ == "__main__":
    main()
