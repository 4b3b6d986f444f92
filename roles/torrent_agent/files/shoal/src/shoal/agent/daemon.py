"""The daemon: one engine, one socket, one event loop, from start to clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from aiohttp import web

from shoal import __version__
from shoal.agent.addresses import parse_endpoint
from shoal.agent.api import Api
from shoal.agent.config import Config
from shoal.agent.errors import StartError
from shoal.agent.events import EventLog
from shoal.agent.imports import remove_leftovers
from shoal.agent.limits import RateLimits, follow_schedule
from shoal.agent.log import configure as configure_log
from shoal.agent.log import log, log_event
from shoal.agent.memory import Trimmer, spare_collector
from shoal.agent.notify import notify, watchdog_interval
from shoal.agent.reload import Configuration
from shoal.agent.report import Reporter
from shoal.agent.retention import tidy
from shoal.agent.sockets import hold_lock, listen_at
from shoal.agent.watch import Watchers
from shoal.swarm import Engine, Event, EventKind, State, SwarmError

STOP_SECONDS = 20.0  # for saving resume data; systemd kills after 90 by default
ANSWER_SECONDS = 2.0  # for requests under way when the agent stops
THREADS = 8  # engine calls are short, but for the deletion of a big payload
PULSE_SECONDS = 10.0  # between two looks at the engine where no watchdog sets the pace


def run(config: Config, read: Callable[[], Config] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status: 0 stopped cleanly, 1 state not saved.

    ``read`` is called on SIGHUP for the configuration as it is then.

    Raises StartError where the daemon cannot start: folders, lock, socket or the engine itself.
    """
    with contextlib.ExitStack() as held:
        try:
            config.state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            config.socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"cannot make the folder {error.filename}: {error.strerror}") from error
        held.enter_context(hold_lock(config.state_dir / "agent.lock", f"state_dir {config.state_dir}"))
        sock = held.enter_context(listen_at(config.socket, config.socket_mode))
        metrics = _listen(held, config)
        return asyncio.run(_serve(config, read or (lambda: config), sock, metrics))


def _listen(held: contextlib.ExitStack, config: Config) -> socket.socket | None:
    """Where metrics are served beside the socket, if they are."""
    if config.metrics.listen is None:
        return None
    host, port = parse_endpoint(str(config.metrics.listen))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return held.enter_context(socket.create_server((host, port), family=family))
    except OSError as error:
        raise StartError(f"cannot serve metrics at {config.metrics.listen}: {error.strerror}") from error


async def _serve(
    config: Config, read: Callable[[], Config], sock: socket.socket, metrics_sock: socket.socket | None
) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="engine"))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    hangup = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    events = EventLog()
    untidy = asyncio.Event()  # payloads may have become old
    on_complete: list[Callable[[str], None]] = []

    def on_event(event: Event) -> None:  # in the engine's thread
        log_event(event)
        loop.call_soon_threadsafe(events.publish, event)
        if event.kind is EventKind.STATE and event.state is State.COMPLETE:
            loop.call_soon_threadsafe(untidy.set)
            for tell in on_complete:
                loop.call_soon_threadsafe(tell, event.info_hash)

    settings = config.engine_settings()
    engine = Engine(settings, on_event)
    try:
        await asyncio.to_thread(remove_leftovers, settings.store_dir)
        await asyncio.to_thread(engine.start)
    except (SwarmError, OSError) as error:
        raise StartError(f"the engine does not start: {error}") from error
    limits = RateLimits(engine, config.limits)

    def apply(wanted: Config) -> None:
        limits.configure(wanted.limits)
        engine.apply(replace(wanted.engine_settings(), upload_limit=limits.upload, download_limit=limits.download))
        configure_log(wanted.log.level, wanted.log.format)

    configuration = Configuration(config, read, apply)
    reporter = Reporter()
    watchers = Watchers(engine, configuration, reporter.report)
    on_complete.append(watchers.on_complete)
    api = Api(
        engine, events, configuration, limits, watchers, state_dir=settings.state_dir, store_dir=settings.store_dir
    )
    # A client that goes away ends its wait: long-polls are counted.
    runner = web.AppRunner(
        api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=ANSWER_SECONDS
    )
    await runner.setup()
    await web.SockSite(runner, sock).start()
    metrics = web.AppRunner(api.metrics_application(), access_log=None, shutdown_timeout=ANSWER_SECONDS)
    await metrics.setup()
    if metrics_sock is not None:
        await web.SockSite(metrics, metrics_sock).start()
    tasks = [
        asyncio.create_task(_pulse(engine)),
        asyncio.create_task(_reload(configuration, hangup, [untidy, limits.changed, watchers.changed])),
        asyncio.create_task(follow_schedule(limits)),
        asyncio.create_task(tidy(engine, configuration, untidy)),
        asyncio.create_task(watchers.run()),
        asyncio.create_task(reporter.run()),
    ]
    spare_collector()
    log.info(
        "agent started",
        extra={
            "fields": {
                "version": __version__,
                "name": settings.agent_name,
                "socket": str(config.socket),
                "listen": list(engine.listen_ports),
                "metrics": metrics_sock.getsockname()[1] if metrics_sock else None,
                "state_dir": str(settings.state_dir),
                "pid": os.getpid(),
            }
        },
    )
    notify("READY=1")
    await stopping.wait()

    notify("STOPPING=1")
    log.info("agent stopping")
    for task in tasks:
        task.cancel()
    events.close()
    await runner.cleanup()
    await metrics.cleanup()
    try:
        # The engine keeps to its time by itself; should it hang all the same, we do not wait for its thread.
        await asyncio.wait_for(asyncio.to_thread(engine.stop, STOP_SECONDS), STOP_SECONDS + 5)
    except (asyncio.TimeoutError, SwarmError) as error:
        log.error("state not saved: %s; data is checked again at the next start", error or "the engine hangs")
        logging.shutdown()
        os._exit(1)
    log.info("agent stopped")
    return 0


async def _reload(configuration: Configuration, hangup: asyncio.Event, concerned: list[asyncio.Event]) -> None:
    """Read the configuration anew at each SIGHUP; the service manager hears of begin and end (sd_notify(3))."""
    while True:
        await hangup.wait()
        hangup.clear()
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            await asyncio.to_thread(configuration.reload)
        except Exception:
            log.exception("the new configuration could not be brought into force")
        for other in concerned:
            other.set()
        notify("READY=1")


async def _pulse(engine: Engine) -> None:
    """Tell the service manager that we live, as long as the engine answers and its own thread is alive; after
    traffic, give memory back."""
    watchdog = watchdog_interval()
    trimmer = Trimmer()
    while True:
        try:
            torrents = await asyncio.to_thread(engine.statuses)
        except Exception:
            log.exception("the engine does not answer: no more signs of life, so that the service manager restarts us")
            return
        fetching = sum(torrent.state is State.DOWNLOADING for torrent in torrents)
        up, down = sum(t.upload_rate for t in torrents), sum(t.download_rate for t in torrents)
        lines = [f"STATUS={len(torrents)} torrents, {fetching} fetching, {down} B/s down, {up} B/s up"]
        if watchdog is not None and engine.alive:
            lines.append("WATCHDOG=1")
        notify(*lines)
        if trimmer.due(sum(t.uploaded + t.downloaded for t in torrents)):
            await asyncio.to_thread(trimmer.trim)
        await asyncio.sleep(watchdog or PULSE_SECONDS)
