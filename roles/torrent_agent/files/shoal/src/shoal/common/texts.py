"""Text that came in JSON or YAML and can be no path, argument or line of a file."""

from __future__ import annotations

import re

_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def is_usable(document: object) -> bool:
    """Whether no string in a decoded document, keys included, has NUL or lone surrogates."""
    if isinstance(document, str):
        return not _UNUSABLE.search(document)
    if isinstance(document, dict):
        return all(is_usable(key) and is_usable(value) for key, value in document.items())
    return not isinstance(document, list) or all(map(is_usable, document))
