"""Keeps the bytecode of modules that are imported from zip files, as Python does for those in folders.

An Ansible module comes to a host as a zip file, all of which is compiled anew each time: half of what it costs the
host, and of what tests of playbooks take. Nothing else differs. A .pth file imports this one, into the hosts' Python in
molecule's scenarios (extensions/molecule/default/create.yml) and into .venv (tests/venv.sh). It does nothing unless the
folder zip_bytecode.kept is beside it, which tests/run.sh makes for the time of a run: `make demo` and `make bench`
measure Ansible as it is.
"""

import _imp
import marshal
import os  # as pathlib takes a while to import
import zipimport

compile_source = zipimport._compile_source
folder = os.path.splitext(__file__)[0] + ".kept"


def compile_or_load(path, source):
    kept = f"{folder}/{_imp.source_hash(0, source).hex()}"
    try:
        with open(kept, "rb") as file:
            return marshal.load(file)
    except (OSError, EOFError, ValueError, TypeError):
        code = compile_source(path, source)
    try:
        with open(f"{kept}.{os.getpid()}", "wb") as file:
            marshal.dump(code, file)
        os.rename(file.name, kept)
    except OSError:
        pass  # a user who may not write there
    return code


if os.path.isdir(folder):
    zipimport._compile_source = compile_or_load
