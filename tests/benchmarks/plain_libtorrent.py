"""A peer that is libtorrent with the settings it comes with: what our own settings are measured against.

    python plain_libtorrent.py ADDRESS TORRENT DATA_DIR MARKS_DIR

Makes MARKS_DIR/ready once it listens, begins when MARKS_DIR/go is there, makes MARKS_DIR/done once complete, seeds on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import libtorrent as lt

address, torrent, data, marks = sys.argv[1:]
settings = {
    "listen_interfaces": f"{address}:6881",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": lt.alert.category_t.status_notification,
}
session = lt.session(settings)
(Path(marks) / "ready").touch()
while not (Path(marks) / "go").exists():
    time.sleep(0.02)
parameters = lt.add_torrent_params()
parameters.ti = lt.torrent_info(torrent)
parameters.save_path = data
handle = session.add_torrent(parameters)
while not handle.status().is_seeding:
    session.wait_for_alert(200)
    session.pop_alerts()
(Path(marks) / "done").touch()
while True:
    time.sleep(3600)
