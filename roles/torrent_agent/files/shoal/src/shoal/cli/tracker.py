"""``shoal tracker``: the small tracker, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from shoal.tracker import Tracker, TrackerError, TrackerSettings

DEFAULTS = TrackerSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_endpoint,
        action="append",
        help="address to serve, repeatable; [HOST]:PORT for IPv6, port 0 for a free one (default: 127.0.0.1:6969). The "
        "announce URLs are printed, one a line, as soon as they can be used",
    )
    for option, default, what in (
        ("--interval", DEFAULTS.interval, "ask clients to announce themselves this often"),
        ("--min-interval", DEFAULTS.min_interval, "and at most this often"),
        ("--lifetime", DEFAULTS.lifetime, "forget a client that was not heard of for so long"),
    ):
        parser.add_argument(option, metavar="SECONDS", type=int, default=default, help=f"{what} (default: {default} s)")
    parser.add_argument(
        "--believe-ip",
        action="store_true",
        help="use the address a client gives of itself (announce_ip of an agent behind NAT) instead of the one it "
        "comes from; only where every client is trusted",
    )


def run(args: argparse.Namespace) -> int:
    try:
        settings = TrackerSettings(
            listen=tuple(args.listen or DEFAULTS.listen),
            interval=args.interval,
            min_interval=args.min_interval,
            lifetime=args.lifetime,
            believe_ip=args.believe_ip,
        )
    except TrackerError as error:
        print(f"shoal tracker: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(_serve(Tracker(settings)))
    except TrackerError as error:
        print(f"shoal tracker: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(tracker: Tracker) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await tracker.start()
    # Flushed: a script that reads a pipe waits for the first line
    print(*tracker.urls, sep="\n", flush=True)
    await stop.wait()
    await tracker.stop()


def _endpoint(text: str) -> tuple[str, int]:
    host, _colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not bracketed) or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HOST:PORT or [IPv6]:PORT, with a port from 0 to 65535")
    return (host[1:-1] if bracketed else host), int(port)
