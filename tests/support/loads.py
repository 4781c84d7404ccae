"""`python -m loads MODULE...` imports modules and prints all that is imported then."""

import importlib
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
