"""Files that are whole or absent: atomic writes, manifests, scratch folders, timings.

The order is always the same: write aside, fsync, rename, fsync the folder. A folder's
`manifest.json` is written last, so a folder with a manifest is complete, and a folder without one
never was.
"""

from pipeline.artifacts.disk import (
    FULL,
    disk_full,
    folder_bytes,
    guard_disk,
    human_bytes,
    require_space,
)
from pipeline.artifacts.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    fsync_folder,
    read_json,
    read_text,
    remove,
    sha256_file,
)
from pipeline.artifacts.inputs import inputs_hash
from pipeline.artifacts.manifest import (
    MANIFEST,
    THINNED,
    WHOLE,
    check_manifest,
    identity,
    need_part,
    read_manifest,
    rewrite_manifest,
    write_manifest,
)
from pipeline.artifacts.scratch import PUBLISHED, SCRATCH, Scratch
from pipeline.artifacts.timings import known_timings, read_timings, record_pace, record_timing

__all__ = [
    "FULL",
    "MANIFEST",
    "PUBLISHED",
    "SCRATCH",
    "THINNED",
    "WHOLE",
    "Scratch",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "check_manifest",
    "disk_full",
    "folder_bytes",
    "fsync_folder",
    "guard_disk",
    "human_bytes",
    "identity",
    "inputs_hash",
    "known_timings",
    "need_part",
    "read_json",
    "read_manifest",
    "read_text",
    "read_timings",
    "record_pace",
    "record_timing",
    "remove",
    "require_space",
    "rewrite_manifest",
    "sha256_file",
    "write_manifest",
]
