"""Build the demo's shop: three archives, as JSON by version. Takes the demo's folder, and one to keep them in."""

import json
import sys
from pathlib import Path

demo, cache = map(Path, sys.argv[1:])
sys.path.insert(0, str(demo))

from build_shop import archives  # noqa: E402  (found in the folder of the demo)

print(json.dumps({version: str(path) for version, path in archives(["1.0", "1.1", "1.2"], cache).items()}))
