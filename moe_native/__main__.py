"""``python -m moe_native`` is the console script `moe-native`."""

from moe_native.cli import main

if __name__ == "__main__":
    main()
