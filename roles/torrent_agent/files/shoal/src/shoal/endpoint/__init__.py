"""The known end point: signed static files that say which version an application's hosts should run.

One TUF repository (https://theupdateframework.github.io/specification/latest/) per application, made and read with
python-tuf. `publisher` writes it, `client` reads it; `policy` and `schedule` say what a host does with what it read.

Import the modules by name: only who signs or reads pays for TUF's libraries.
"""
