"""`import Root` puts the repository's root on Python's path.

Python looks for modules beside the command that it runs, and not in the folder above.  So each
command of this folder imports this module before it imports anything from the root.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
