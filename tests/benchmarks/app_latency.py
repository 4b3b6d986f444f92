"""What a transfer costs the application beside it.

    python app_latency.py [--rate 200] [--seconds 30] -- shoal fetch big.torrent --peer publisher:6891

Run it on a host with the agent as its service (nothing but Python is needed): a small HTTP service answers requests
that come at a fixed rate, for some seconds with nothing else, then for as long as the command runs, and again with
nothing else. Prints percentiles of the latency in milliseconds, each from the moment at which the request was due: a
service that stalls makes those wait that come meanwhile, too.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import http.server
import os
import subprocess
import sys
import threading
import time


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_GET(self) -> None:
        body = hashlib.sha256(bytes(100_000)).hexdigest().encode()  # a little work
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve(ready: int) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    os.write(ready, b"%d\n" % server.server_port)
    server.serve_forever()


class Load:
    """Requests that are due every 1/rate seconds, spread over some connections that stay open."""

    CONNECTIONS = 4

    def __init__(self, port: int, rate: float) -> None:
        self._port, self._rate = port, rate
        self.latencies: list[float] = []
        self._stop = threading.Event()
        start = time.monotonic() + 0.1
        self._threads = [
            threading.Thread(target=self._ask, args=(start + number / rate,)) for number in range(self.CONNECTIONS)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, due: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            connection.request("GET", "/")
            connection.getresponse().read()
            self.latencies.append(time.monotonic() - due)
            due += self.CONNECTIONS / self._rate

    def end(self) -> list[float]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return sorted(self.latencies)


def row(name: str, latencies: list[float], seconds: float) -> str:
    shares = (0.5, 0.9, 0.99, 0.999)
    cells = [1000 * latencies[min(len(latencies) - 1, int(len(latencies) * share))] for share in shares]
    return f"{name:<10}{len(latencies):>9}{seconds:>9.1f}" + "".join(f"{cell:>9.2f}" for cell in cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30, help="without the command, before and after it")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        serve(writer)
    port = int(os.read(reader, 16))
    try:
        print(f"{'':<10}{'requests':>9}{'seconds':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}")
        for name in ("before", "during", "after"):
            load, began = Load(port, options.rate), time.monotonic()
            if name == "during":
                subprocess.run(options.command, check=True, stdout=subprocess.DEVNULL)
            else:
                time.sleep(options.seconds)
            seconds = time.monotonic() - began
            print(row(name, load.end(), seconds), flush=True)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
