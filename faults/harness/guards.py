"""The guards in our own code that mutants lack, one each: which text is taken out, and which campaign must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """What is missing, the campaign that must notice, and the edits: file in featcache/, old text, new text."""

    name: str
    campaign: str
    edits: tuple[tuple[str, str, str], ...]


MUTANTS = (
    Mutant(
        "no fsync of the file",
        "power-cut",
        (("base/files.py", "        _sync(descriptor, path)\n        if hasattr", "        if hasattr"),),
    ),
    Mutant(
        "no fsync of the folder",
        "power-cut",
        (("base/files.py", "        sync_folder(path.parent)\n    return digest", "    return digest"),),
    ),
    Mutant(
        "written in place, not renamed",
        "power-cut",
        (
            (
                "base/files.py",
                "    digest = hashlib.sha256(data)",
                "    temporary = path\n    digest = hashlib.sha256(data)",
            ),
            ("base/files.py", "temporary.unlink(missing_ok=True)", "pass"),
        ),
    ),
    Mutant(
        "fsync tried again after it failed",
        "io-errors",
        (("base/files.py", ") from error\n        raise\n", ") from error\n        os.fsync(descriptor)\n"),),
    ),
    Mutant(
        "what was written is not read back",
        "io-errors",
        (("base/files.py", 'if not _holds(temporary, memoryview(data).cast("B")):', "if False:"),),
    ),
    Mutant(
        "a short write is not gone on with",
        "io-errors",
        (("base/files.py", "            data = data[os.write(", '            data = b""[os.write('),),
    ),
    Mutant(
        "the temporary stays after an error",
        "io-errors",
        (("base/files.py", "temporary.unlink(missing_ok=True)", "pass"),),
    ),
    Mutant(
        "temporaries of killed runs stay",
        "kills",
        (("store/writer.py", "remove_temporaries(shards_folder(self.folder)) + remove_temporaries(self.folder)", "0"),),
    ),
    Mutant(
        "no lock",
        "together",
        (("base/lock.py", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),),
    ),
    Mutant(
        "a chunk's digest is not checked",
        "flips",
        (("store/shards/shard.py", "if digest != index.digests[i, j]:", "if False:"),),
    ),
    Mutant(
        "a chunk's digest is not bound to its place",
        "flips",
        (
            (
                "store/shards/format.py",
                'return xxhash.xxh3_64_intdigest(f"{fingerprint}\\0{array}\\0{name}\\0{view}".encode())',
                "return 0",
            ),
        ),
    ),
    Mutant(
        "a chunk's digest is not bound to its image",
        "flips",
        (("store/shards/format.py", "\\0{array}\\0{name}\\0{view}", "\\0{array}\\0{view}"),),
    ),
    Mutant(
        "a chunk's digest is not bound to its view",
        "flips",
        (("store/shards/format.py", "\\0{array}\\0{name}\\0{view}", "\\0{array}\\0{name}"),),
    ),
    Mutant(
        "a shard's length is not checked",
        "flips",
        (
            ("store/cache.py", "if path.stat().st_size != entry.bytes or shard.block", "if shard.block"),
            ("store/cache.py", "!= entry.bytes]", "== -1]"),
        ),
    ),
    Mutant(
        "a shard's block and images are not checked",
        "flips",
        (
            ("store/cache.py", "entry.bytes or shard.block != entry.block:", "entry.bytes:"),
            (
                "store/cache.py",
                "            if not all(map(is_same_image, shard.images, self.images[r0:r1])):",
                "            if False:",
            ),
        ),
    ),
    Mutant(
        "a shard's images are not checked",
        "flips",
        (
            (
                "store/cache.py",
                "            if not all(map(is_same_image, shard.images, self.images[r0:r1])):",
                "            if False:",
            ),
        ),
    ),
    Mutant(
        "a shard's fingerprint is not checked",
        "flips",
        (
            (
                "store/shards/opening.py",
                'if recipe is not None and attributes["fingerprint"] != recipe.fingerprint:',
                "if False:",
            ),
        ),
    ),
    Mutant(
        "the digest of tables is not checked",
        "flips",
        (("store/shards/opening.py", "if tables_digest(attributes, tables) != stored_digest:", "if False:"),),
    ),
    Mutant(
        "absent images are not looked for",
        "flips",
        (
            (
                "store/cache.py",
                "for row in wanted_rows[~self.present[wanted_rows.astype(np.intp)]]",
                "for row in wanted_rows[:0]",
            ),
            ("store/shards/shard.py", "        if image.absent:\n", "        if False:\n"),
        ),
    ),
    Mutant(
        "an unlisted shard's name is not checked",
        "flips",
        (("extraction/seal.py", 'if xxhash.xxh3_64_hexdigest(data) != path.stem.partition("-")[2]:', "if False:"),),
    ),
    Mutant(
        "the manifest's digest is not checked",
        "flips",
        (("store/manifest.py", "if digest != _digest(body):", "if False:"),),
    ),
    Mutant(
        "the digest of cache.h5 is not checked",
        "flips",
        (("store/index.py", "    if hashlib.sha256(data).hexdigest() != sha256:", "    if False:"),),
    ),
    Mutant(
        "verify does not compare whole files",
        "flips",
        (("maintenance/verify.py", "return xxh3.hexdigest() == named and (", "return bool(named) or ("),),
    ),
    Mutant(
        "names of shards are not checked",
        "fuzz",
        (("store/manifest.py", 'if not NAME_PATTERN.fullmatch(entry["file"]):', "if False:"),),
    ),
)
