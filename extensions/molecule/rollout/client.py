"""Ask a shop for its version over and over, until SIGTERM; then tell, as JSON, what it answered and what failed."""

import collections
import http.client
import json
import signal
import sys
import time
import urllib.request

answers = collections.Counter()
failures = []
going = True


def stop(*_):
    global going
    going = False


signal.signal(signal.SIGTERM, stop)
while going:
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
            answers[json.load(answer)["version"]] += 1
    except (OSError, ValueError, http.client.HTTPException) as error:
        failures.append(f"{time.strftime('%H:%M:%S')} {error}")
    time.sleep(0.01)  # so as not to keep a core busy
print(json.dumps({"answers": answers, "failures": failures}))
