"""Every setting of the libtorrent session, each with its reason.

"Measured" means, unless said otherwise: 20 peers and a seeder on links shaped to 10 or 100 Mbit/s.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import libtorrent as lt

from shoal import __version__
from shoal.swarm.types import EngineSettings

MAX_TORRENT_BYTES = 16 << 20
"""Largest .torrent, and largest metainfo taken from peers for a magnet. libtorrent's own 10 MB is reached by v2
torrents of many files; ours are at most 4 MB (torrent_create), so 16 MiB leaves room for everybody else's."""

LOAD_LIMITS = {
    "max_buffer_size": MAX_TORRENT_BYTES,
    # 16 MiB of SHA-1 hashes
    "max_pieces": MAX_TORRENT_BYTES // 20,
    "max_decode_depth": 100,
    # about 6 a file: 16 MiB hold some 100,000 files
    "max_decode_tokens": 3_000_000,
}
"""Bounds for parsing a .torrent (``load_torrent_limits``)."""

BLOCK = 16 * 1024
"""What peers ask one another for at a time (BEP 3)."""

MAX_WEB_SEEDS = 32
MAX_TRACKERS = 64
MAX_GIVEN_PEERS = 1000
"""Per torrent: bounds of what a request may bring."""

MAX_SOURCES = 1000
"""Names in TorrentStatus.from_peers; peers beyond it are counted together as "others". A fleet's names fit."""

ALERT_QUEUE = 100_000
"""Alerts that may wait for our thread. Two come with each block of 16 KiB: at 1 GB/s this is nearly a second of them.
What is dropped beyond it costs exact accounting, nothing else: alerts that steer are of a higher priority, for which
libtorrent keeps room."""

ALERT_MASK_FAST = (
    lt.alert.category_t.status_notification
    | lt.alert.category_t.error_notification
    | lt.alert.category_t.storage_notification
    | lt.alert.category_t.tracker_notification
    # who connected, and who could not be reached: a peer's name is looked up once a connection
    | lt.alert.category_t.connect_notification
    | lt.alert.category_t.peer_notification
)
"""Where all that is fetched comes fast (totals.py)."""

# each block, with the peer that sent it: the only exact account of where bytes came from (peer_info is gone as soon as
# the peer is, and seeds part as soon as both are complete)
ALERT_MASK = ALERT_MASK_FAST | lt.alert.category_t.block_progress_notification

CONNECTION_SPEED = 10
"""Peers that we dial a second, beside those of `SEED_BOOST` or `FETCH_BOOST` at once. With more, a swarm of 100 that
starts at once has everybody connected to everybody before it is seen that they are enough."""

SEED_BOOST = 20
FETCH_BOOST = 10
"""Peers of a tracker's answer that are dialled at once. A seed that joins 20 waiting peers has served 5 MB to all in
1.1 to 1.3 s. Who fetches is dialled by as many as it dials."""

UNCHOKE_SLOTS = 100
"""Peers served at once while we fetch: all of a usual swarm. Whom we serve follows from what they give, so with fewer
slots than peers the same few are choked by many, fall behind, give less for it, and end last. Measured with more slots
than peers and with 20, times the ideal time: 20 hosts, 32 MB at 10 Mbit/s 1.14 to 1.15 and 1.18 to 1.27, 64 MB at
100 Mbit/s 2.28 to 2.30 and 2.43 to 2.44; 50 hosts, 32 MB at 2 Mbit/s 1.27 and 1.30."""

_SEED_SLOTS = 30
_SEED_SLOTS_MANY = 10
_MANY_PEERS = 40
"""Peers that a seed serves at once, few of many: whoever waits gets the pieces from those who do not, and each block is
where it can be passed on so much sooner. Measured with 100 hosts, 16 MB at 1 Mbit/s: 1.71 times the ideal time with
100, 1.64 with 30, 1.52 with 10, 1.52 with 5; 20 hosts are worse off with 10 than all at once: 5 MB at 10 Mbit/s 1.73 to
1.76 instead of 1.52 to 1.60."""


def seed_slots(peers: int) -> int:
    """Peers that a seed serves at once if there are so many."""
    return _SEED_SLOTS_MANY if peers > _MANY_PEERS else _SEED_SLOTS


ENOUGH_PEERS = 12
"""Peers of a torrent from which we dial no more; as many again dial us. Each peer is told of each piece that we get,
and tells us; and the more there are, the longer a block takes to each, and what we tell waits behind it: meanwhile
others ask the publisher for what is here already. Measured with 100 hosts, 16 MB at 1 Mbit/s, one run each in turns:
1.53 times the ideal time with 20 (and 20 dialled at once), 1.40 with 12 (10 at once), 1.42 with 8 (8); the publisher
sent 1.46, 1.35 and 1.35 times the payload. 5 MB to 20 hosts at 10 Mbit/s, four runs each in turns: no difference."""

_MAX_REQUEST_QUEUE = 64
"""Blocks a peer may have in flight from us where there are few. Measured unshaped: 64 is best with 1 peer (2.6 s per
GB; 2: 11 s) and with 5 (10.9 s; 500: 12.3 s). Deeper queues make a seeder send the same piece twice before peers pass
it on."""

_MIN_REQUEST_QUEUE = 2
"""One on its way while the next is asked for."""

_PART_OF_PAYLOAD = 75
_FEW_BLOCKS = (4, 8)
_PART_OF_LARGE = 500
"""Where the uplink's rate is not known, a peer may have so much of the payload in flight: a 75th, within these blocks,
of a large one a 500th. Who connects first, before the others are seen, asks for as much as one alone may, and keeps its
place in the uplink's queue: of 20 hosts two got half of what the publisher sent when they were told 64 and 52 blocks
and the last ones 16, and passing that on was theirs alone. Measured in turns, times the ideal time: 64 MB to 20 hosts
at 100 Mbit/s 1.45 to 1.50 with a 75th, 1.38 to 1.43 with a 300th, 1.30 to 1.38 with a 500th (8 blocks), 1.50 to 1.52
with an 800th; 5 MB to 20 hosts at 10 Mbit/s 1.47 to 1.49 with at most 4 blocks, 1.52 to 1.56 with 8, 1.62 without a
bound. Two would be best there (1.41 to 1.44), but a single peer does not keep a link busy with them."""

_QUEUED_SECONDS = 0.2
"""How much of a limited uplink, in seconds, may be in flight to all peers together: fits every measured link from 10 to
100 Mbit/s. Less than two of libtorrent's ticks, and a single peer does not get all that the limit allows: of 2 MB/s
1.07 with 3 blocks in flight, 1.94 with 8."""

_QUEUED_SHARE = 6
_QUEUED_BLOCKS = (64, 320)
"""Blocks in flight to all peers together where the uplink's rate is not known: a sixth of the payload, within these
bounds. What waits at a publisher others do not have yet, and ask it for, too; where the machine is busy, answers come
late. Measured with 64 and 320: 5 MB to 20 hosts at 10 Mbit/s 1.54 to 1.60 and 1.70 to 1.77 times the ideal time; 64 MB
to 20 hosts at 100 Mbit/s on two cores 1.86 and 1.59."""


def request_queue(upload_limit: int, peers: int = 1, size: int = 0) -> int:
    """Blocks that each of ``peers`` may have in flight from us (``reqq``, BEP 10), for an uplink of ``upload_limit``
    bytes/s and a payload of ``size`` bytes (0: not known). It is told once, when a peer connects.
    """
    if upload_limit:
        most, queued = float(_MAX_REQUEST_QUEUE), _QUEUED_SECONDS * upload_limit / BLOCK
    else:
        blocks = size / BLOCK
        least, few = _FEW_BLOCKS
        part = max(least, min(few, blocks / _PART_OF_PAYLOAD), blocks / _PART_OF_LARGE)
        most = min(_MAX_REQUEST_QUEUE, part) if size else _MAX_REQUEST_QUEUE
        queued = max(_QUEUED_BLOCKS[0], min(_QUEUED_BLOCKS[1], blocks / _QUEUED_SHARE))
    return max(_MIN_REQUEST_QUEUE, round(min(most, queued / max(1, peers))))


def limits(upload: int, download: int) -> dict[str, Any]:
    """The settings that follow from the agent's rate limits (bytes/s, 0: none)."""
    return {
        "upload_rate_limit": upload,
        "download_rate_limit": download,
        "max_allowed_in_request_queue": request_queue(upload),
    }


def ip_filter(allowed: tuple[str, ...]) -> Any:
    """What lets peers of the networks ``allowed`` (CIDR) in and out, and nobody else; without any, everybody.

    An IPv4 network is allowed as IPv6 writes its addresses too (::ffff:0:0/96).
    """
    blocked = 1
    rules = lt.ip_filter()
    if allowed:
        rules.add_rule("0.0.0.0", "255.255.255.255", blocked)
        rules.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", blocked)
    for network in map(ipaddress.ip_network, allowed):
        first, last = str(network[0]), str(network[-1])
        rules.add_rule(first, last, 0)
        if network.version == 4:
            rules.add_rule(f"::ffff:{first}", f"::ffff:{last}", 0)
    return rules


def session_settings(settings: EngineSettings) -> dict[str, Any]:
    """The settings pack of a session that does what ``settings`` says."""
    client = f"shoal/{__version__}"
    return {
        **limits(settings.upload_limit, settings.download_limit),
        "alert_mask": ALERT_MASK,
        "alert_queue_size": ALERT_QUEUE,
        # --- who we are ---
        "user_agent": client,
        # The only text that a peer shows to others: with the agent's name in it, they can say where bytes came from.
        "handshake_client_version": f"{client} ({settings.agent_name})" if settings.agent_name else client,
        "announce_ip": settings.announce_ip,
        # --- where we listen ---
        "listen_interfaces": ",".join(settings.listen),
        # A taken port is an error to report: by default libtorrent listens on some other one, which no firewall knows.
        "listen_system_port_fallback": False,
        "max_retry_port_bind": 0,
        # Swarms of a fleet start all at once; the default backlog is 5.
        "listen_queue_size": 128,
        # --- how we find peers: by tracker and by hand, unless asked ---
        "enable_dht": settings.dht,
        "enable_lsd": settings.lsd,
        "enable_upnp": settings.upnp,
        "enable_natpmp": settings.natpmp,
        # libtorrent's own floor, 300 s, overrides a tracker that asks for more; deploys want 60 s or less.
        "min_announce_interval": 15,
        # All trackers of a tier and all tiers: a swarm must find itself when one tracker is away.
        "announce_to_all_trackers": True,
        "announce_to_all_tiers": True,
        # A dead tracker must not hold up the agent's stop (default 5 s), nor a first announce (default 30 s).
        "stop_tracker_timeout": 1,
        "tracker_completion_timeout": 15,
        # The networks that peers may be of say nothing of trackers. (Web seeds have no such switch.)
        "apply_ip_filter_to_trackers": False,
        # --- how we connect ---
        # By default 60 s pass after a first failed dial: measured, a minute lost when peers start before their seed.
        "min_reconnect_time": 1,
        # libtorrent counts failed dials up to 31 and waits that many times min_reconnect_time: a bound above it means
        # that a peer given by hand, of which no tracker reminds us, is never given up.
        "max_failcount": 32,
        # A host that does not answer on a fleet's own network is down; the default waits 15 s for it.
        "peer_connect_timeout": 7,
        "connection_speed": CONNECTION_SPEED,
        "torrent_connect_boost": SEED_BOOST,
        "smooth_connects": False,
        # Of the whole agent; by default 200, which the peers of two torrents of a big fleet would fill.
        "connections_limit": 1000,
        # Seeds dial the leechers they are told of: leechers that came first are served at once.
        "seeding_outgoing_connections": True,
        # Several agents on one host (tests, the demo) or behind one address are several peers.
        "allow_multiple_connections_per_ip": True,
        # uTP off: measured unshaped, 88 s per GB over uTP, 4 s over TCP.
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        # Plain handshakes out, any in: an encrypted one is two round trips more, and under a rate limit each message
        # waits for a tick. Payloads are public to the fleet, and checked.
        "out_enc_policy": int(lt.enc_policy.disabled),
        # How often libtorrent hands out what rate limits allow: by default every 500 ms; a start takes a few of them.
        # Measured with a limit of 10 MB/s: 0.97 to 0.99 of it is reached (500 ms: 0.87 to 0.98). An idle session of 5
        # torrents costs 0.06 % of a core (500 ms: 0.02 %).
        "tick_interval": 100,
        # --- how we serve ---
        "choking_algorithm": int(lt.choking_algorithm_t.fixed_slots_choker),  # measured: rate-based 7.6 times the ideal
        "unchoke_slots_limit": seed_slots(0),
        # Peers of a deploy come and go within seconds: whoever waits for a slot must not wait the default 15 s.
        "unchoke_interval": 2,
        "optimistic_unchoke_interval": 4,
        # --- how we fetch ---
        "send_redundant_have": False,  # haves to peers that have the piece: pure overhead that grows with the fleet
        "initial_picker_threshold": 0,  # the first pieces, too, are those of its own share (shares.py)
        "allowed_fast_set_size": 0,  # pieces for peers that are choked would be others' shares
        "whole_pieces_threshold": 0,  # measured: with whole pieces per peer, pieces are passed on later
        "strict_end_game_mode": True,  # asks for a block twice only when nothing else is left to ask for
        # --- web seeds: a server that a whole fleet may turn to ---
        "max_web_seed_connections": settings.web_seed.max_connections,
        # --- how we write and hash ---
        # By default 10 threads, which wake one another and wait for one lock of the file. Measured in one run each, and
        # ten went first: 1 GB to 1 host unshaped 2.4 s with 1 and 4.3 with 10, to 5 hosts 15.5 and 17.9 s. In a later
        # run with totals.py, 1, 2 and 4: 3.3 (it went first), 1.9 and 2.1 s, to 5 hosts 12.8, 10.1 and 11.6 s.
        "aio_threads": 2,
        "hashing_threads": 1,  # all cores while what is on disk is checked (engine.py)
        # --- bounds ---
        "max_metadata_size": MAX_TORRENT_BYTES,
        # Bytes that wait for the disk before peers are made to wait. What the default of 100 MiB takes stays with the
        # process: up to 80 MB of its own memory after 300 MB fetched by 3 hosts, 65 MB with 16 MiB; 4 MiB cost a fifth
        # of the speed.
        "max_queued_disk_bytes": 16 << 20,
    }
