"""A small web shop: what the demo rolls out.

It lives in one folder (a release of the archive that build_shop.py makes): this file, VERSION, catalogue.json,
pictures/ and vendor/. It serves the shop window at ``/``, pictures with previews, and ``/health``, which says which
version answers once everything a customer needs is in order.

    python shop.py PORT
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent  # the release itself: `current` may point elsewhere a moment later
sys.path.insert(0, str(HERE / "vendor"))
sys.dont_write_bytecode = True  # a release is never written to

import flask  # noqa: E402  (found in vendor/)
import waitress  # noqa: E402

VERSION = (HERE / "VERSION").read_text().strip()
CATALOGUE = json.loads((HERE / "catalogue.json").read_text())

app = flask.Flask(__name__, static_folder=None)


@app.get("/health")
def health() -> flask.typing.ResponseReturnValue:
    for item in CATALOGUE:
        if "price" not in item:
            return {"version": VERSION, "error": f"{item['name']} has no price"}, 500
        if not (HERE / "pictures" / item["picture"]).is_file():
            return {"version": VERSION, "error": f"{item['name']} has no picture"}, 500
    return {"version": VERSION}


@app.get("/")
def window() -> str:
    return flask.render_template_string(
        """<title>Shop {{ version }}</title>
        {% for item in catalogue %}
        <p><img src="/previews/{{ item.picture }}" alt=""> {{ item.name }}: {{ "%.2f" | format(item.price) }}</p>
        {% endfor %}""",
        version=VERSION,
        catalogue=CATALOGUE,
    )


@app.get("/pictures/<name>")
def picture(name: str) -> flask.Response:
    return flask.send_from_directory(HERE / "pictures", name)


@app.get("/previews/<name>")
def preview(name: str) -> flask.typing.ResponseReturnValue:
    from PIL import Image  # only here: the shop is to answer soon after its start

    if name not in {item["picture"] for item in CATALOGUE}:
        flask.abort(404)
    with Image.open(HERE / "pictures" / name) as image:
        image.thumbnail((128, 128))
        small = io.BytesIO()
        image.save(small, "JPEG")
    return flask.Response(small.getvalue(), mimetype="image/jpeg")


if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=4)
