"""What worker processes do in tests of the scan: files say in a word what becomes of them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time

from feat_fed.config import RulesConfig
from feat_fed.data.inventory.look import Seen
from feat_fed.data.quality import Look
from feat_fed.data.reading.clip import Box, ClipInfo, Source


def look(source: Source, role: str, rules: RulesConfig) -> Seen:
    """Do what the file's words say: "crash", "hang", "eat", ...; or an id and a fingerprint."""
    text = source[0].read_text()
    verb, *rest = text.split()
    if verb == "crash":
        ctypes.string_at(0)
    if verb == "hang":
        time.sleep(1000)
    if verb == "eat":
        bytearray(8 * 2**30)
    if verb == "exit":
        os._exit(3)
    if verb == "break":
        raise ValueError(f"{text} in {source[0]}")
    if verb == "slow":
        time.sleep(0.2)
    if verb == "pid":
        (source[0].parent.parent / f"pid-{os.getpid()}").touch()
        time.sleep(0.2)
    while verb == "hold" and not (source[0].parent.parent / "go").exists():
        time.sleep(0.05)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    shown = Look(
        num_frames=30,
        height_px=48,
        width_px=64,
        dark_share=0.1,
        motion=5.0,
        fingerprint=rest[0] if rest else sha256,
        field=Box(0, 0, 64, 48),
        field_from="whole",
        overlays=(Box(1, 2, 3, 4),) if "text" in rest else (),
    )
    info = ClipInfo(30, 48, 64, 25.0, patient_key=rest[1] if len(rest) > 1 else None)
    return Seen(source, info, sha256, shown, (b"before", b"after") if verb != "clip" else None)
