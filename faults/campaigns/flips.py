"""Damage to the files of a sealed cache: bits flipped, files cut or grown, chunks and files moved to other places.

Reading gives the exact features or the right error, and verify notices every damage. Each trial runs in a
child, so a crash of libhdf5 would be a failure and not the end.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from faults.harness import children, stub, surgery
from faults.harness.surgery import Chunk
from faults.harness.trial import Campaign, Size, Verdict, exact_or
from featcache.base.errors import BadInput, CorruptFile, FeatcacheError, HostileFile, Mismatch
from featcache.settings import ENCODINGS
from featcache.store.cache import open_cache
from featcache.store.folder import INDEX_NAME, MANIFEST_NAME, shard_paths, shard_place
from featcache.store.shards.format import codec_named
from featcache.store.shards.opening import open_shard

IMAGES = 8  # the last is absent
CODECS = [codec_named(name, ENCODINGS["float16"]) for name in ("none", "lz4", "zstd")]
ANSWERS_WITHIN = 20.0  # seconds


@dataclass(frozen=True)
class Target:
    """The cache that is damaged, what is in it, and three others to take things from.

    twin has the same recipe and image names, but other pictures; renamed has the same pictures under other names;
    other has another recipe. chunks and tables say where they lie in each shard of the cache.
    """

    folder: Path
    dataset: Path
    contents: stub.Contents
    files: dict[str, bytes]
    twin: Path
    renamed: Path
    other: Path
    chunks: dict[str, list[Chunk]] = field(default_factory=dict)
    tables: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Damage:
    """The number-th damage of a kind; what it does depends on the seed, kind and number alone."""

    kind: str
    number: int


def run(campaign: Campaign) -> None:
    """Do every damage, one at a time."""
    made = children.in_child(lambda: _make(campaign))
    if isinstance(made, children.Died):
        raise RuntimeError(f"making the caches: {made}")
    target: Target = made
    counts = _counts(campaign.size)
    damages = [
        Damage(kind, number) for number in range(max(counts.values())) for kind in KINDS if number < counts[kind]
    ]

    def check(damage: Damage) -> Verdict:
        _restore(target)
        return KINDS[damage.kind](target, campaign.random(damage.kind, damage.number), damage.kind)

    for damage, verdict in children.map_in_children(check, damages, ANSWERS_WITHIN):
        campaign.judge(str(damage), verdict, keep={"damage.txt": f"{damage}\n{verdict}\n".encode()})


def _make(campaign: Campaign) -> Target:
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES, bad=True)
    alike = stub.make_dataset(campaign.folder("alike") / "drawn", images=IMAGES, bad=True, seed=1)
    named = stub.make_dataset(campaign.folder("named") / "drawn", images=IMAGES, bad=True, prefix="other")
    folder, *others = (campaign.scratch / name for name in ("cache", "twin", "renamed", "other"))
    stub.run_mixed(dataset, folder)
    for source, out, seed in zip((alike, named, dataset), others, (0, 0, 1), strict=True):
        stub.run_mixed(source, out, seed=seed)
    twin, renamed, other = others
    target = Target(folder, dataset, stub.checked_contents(folder), _files(folder), twin, renamed, other)
    for name in _shards(target):
        target.chunks[name] = surgery.chunks(folder / name)
        target.tables[name] = surgery.table_ranges(folder / name)
    return target


def _counts(size: Size) -> dict[str, int]:
    return {
        "chunk bit": size.chunk_flips,
        "digest bit": size.table_flips,
        "table bit": size.table_flips,
        "table bit, without cache.h5": size.table_flips // 2,
        "HDF5 metadata byte": size.other_flips,
        "cache.h5 bit": size.table_flips,
        "manifest bit": size.table_flips,
        "file cut": size.cuts,
        "file grown": size.cuts // 3,
        "file missing": 4,
        **dict.fromkeys(
            (kind for kind in KINDS if kind in MOVES or kind.startswith(("file of", "chunk missing", "chunks of"))),
            size.moves,
        ),
        "damaged before the seal": size.moves // 2,
        "absent image": 4,
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _shards(target: Target) -> list[str]:
    return [name for name in target.files if name.startswith(shard_place(""))]


def _restore(target: Target) -> None:
    """Undo what the damage before this one did, whether or not its process lived to do so."""
    now = _files(target.folder)
    for name in now.keys() - target.files.keys():
        (target.folder / name).unlink()
    for name, data in target.files.items():
        if now.get(name) != data:
            (target.folder / name).write_bytes(data)


def _judge(target: Target, kind: str, *errors: type[FeatcacheError], signed: bool = False) -> Verdict:
    """Read everything, then verify; both must do right. Signed, every file has the digest that the manifest says."""
    found, raised = None, None
    try:
        found = stub.contents(target.folder)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        raised = error
    verdict = exact_or(errors, raised, found is not None and stub.same(found, target.contents))
    if verdict.problem:
        return verdict
    if not signed and not _verify_notices(target.folder):
        return Verdict(problem="verify did not notice it", silent=True)
    return Verdict((f"{kind}: {verdict.outcomes[-1]}",))


def _verify_notices(folder: Path) -> bool:
    from featcache.maintenance.verify import verify_cache

    try:
        return not verify_cache(folder, threads=1).ok
    except (CorruptFile, Mismatch, HostileFile):
        return True


def _write(target: Target, name: str, data: bytes) -> None:
    (target.folder / name).write_bytes(data)


def _flip(target: Target, rng: random.Random, name: str, start: int, stop: int) -> None:
    position, mask = rng.randrange(start, stop), 1 << rng.randrange(8)
    _write(target, name, surgery.bits_flipped(target.files[name], position, mask))


def _chunk_bit(target: Target, rng: random.Random, kind: str) -> Verdict:
    name = rng.choice(_shards(target))
    chunk = rng.choice(target.chunks[name])
    _flip(target, rng, name, chunk.offset, chunk.end)
    return _judge(target, kind, CorruptFile)


def _table_bit(target: Target, rng: random.Random, kind: str) -> Verdict:
    name = rng.choice(_shards(target))
    tables = {n: r for n, r in target.tables[name].items() if n.startswith("digests/") == (kind == "digest bit")}
    _flip(target, rng, name, *tables[rng.choice(sorted(tables))])
    if "without" in kind:  # then the tables are read from the shards
        (target.folder / INDEX_NAME).unlink()
    return _judge(target, kind, CorruptFile)


def _metadata_byte(target: Target, rng: random.Random, kind: str) -> Verdict:
    name = rng.choice(_shards(target))
    spoken_for = [(chunk.offset, chunk.end) for chunk in target.chunks[name]] + list(target.tables[name].values())
    rest = [p for p in range(len(target.files[name])) if not any(start <= p < stop for start, stop in spoken_for)]
    _write(target, name, surgery.bits_flipped(target.files[name], rng.choice(rest), rng.randrange(1, 256)))
    return _judge(target, kind, CorruptFile)


def _index_bit(target: Target, rng: random.Random, kind: str) -> Verdict:
    _flip(target, rng, INDEX_NAME, 0, len(target.files[INDEX_NAME]))
    return _judge(target, kind, CorruptFile)


def _manifest_bit(target: Target, rng: random.Random, kind: str) -> Verdict:
    _flip(target, rng, MANIFEST_NAME, 0, len(target.files[MANIFEST_NAME]))
    return _judge(target, kind, CorruptFile, Mismatch)  # a flipped bit may make a newer version, or an unknown field


def _any_file(target: Target, rng: random.Random) -> str:
    return rng.choice([*_shards(target), *_shards(target), INDEX_NAME, MANIFEST_NAME])


def _cut(target: Target, rng: random.Random, kind: str) -> Verdict:
    name = _any_file(target, rng)
    size = len(target.files[name])
    _write(target, name, target.files[name][: rng.choice((0, size - 1, rng.randrange(size)))])
    return _refused(name, _judge(target, kind, CorruptFile))


def _grown(target: Target, rng: random.Random, kind: str) -> Verdict:
    name = _any_file(target, rng)
    _write(target, name, target.files[name] + rng.randbytes(rng.choice((1, 8, 4096))))
    return _refused(name, _judge(target, kind, CorruptFile))


def _refused(name: str, verdict: Verdict) -> Verdict:
    """Demand an error for a shard of another length, even if all its chunks are there: it is not the one committed."""
    if name.startswith(shard_place("")) and any(outcome.endswith("exact") for outcome in verdict.outcomes):
        return Verdict(problem="a shard that is not as long as the committed one was read without an error")
    return verdict


def _missing(target: Target, rng: random.Random, kind: str) -> Verdict:
    (target.folder / rng.choice(_shards(target))).unlink()
    return _judge(target, kind, CorruptFile)


def _moved(target: Target, rng: random.Random, kind: str) -> Verdict:
    """Put a chunk where another belongs, in a file that is well formed in every other way."""
    pairs_of = {name: pairs for name in _shards(target) if (pairs := MOVES[kind](target, name))}
    name = rng.choice(sorted(pairs_of))  # chunks that are not compressed are all of one size
    pairs = pairs_of[name]
    first, second = rng.choice(pairs)
    signed = "signed" in kind
    placed = [(first, second), (second, first)] if "swapped" in kind else [(first, second)]
    surgery.put_chunks(target.folder / name, placed, signed=signed)
    if signed:
        surgery.sign_manifest(target.folder)
    return _judge(target, kind, CorruptFile, signed=signed)


def _relabelled(target: Target, rng: random.Random, kind: str) -> Verdict:
    """Have an array of a shard claim another compression than its chunks have, in a file signed anew."""
    name = rng.choice(_shards(target))
    array = rng.choice(sorted({chunk.array for chunk in target.chunks[name] if chunk.array.startswith("features/")}))
    has = open_shard(target.folder / name).codecs[array]
    claimed = rng.choice([codec for codec in CODECS if codec.compression != has.compression])
    surgery.relabel(target.folder / name, array, claimed)
    surgery.sign_manifest(target.folder)
    return _judge(target, kind, CorruptFile, signed=True)


Pairs = list[tuple[Chunk, Chunk]]


def _in_one_shard(same_size: bool) -> Callable[[Target, str], Pairs]:
    def pairs(target: Target, name: str) -> Pairs:
        own = target.chunks[name]
        return [
            (a, b)
            for a in own
            for b in own
            if a.array == b.array and a.offset < b.offset and (len(a.stored) == len(b.stored)) == same_size
        ]

    return pairs


def _from_elsewhere(place: str) -> Callable[[Target, str], Pairs]:
    """Return pairs of a chunk of a shard and one of another place.

    That is another 'image' or 'view' in the same shard, another 'shard', or another cache's folder.
    """

    def pairs(target: Target, name: str) -> Pairs:
        own = target.chunks[name]
        if place == "shard":
            others = [chunk for shard in _shards(target) if shard != name for chunk in target.chunks[shard]]
        elif place == "view":
            return [(a, b) for a in own for b in own if (a.array, a.i) == (b.array, b.i) and a.j != b.j]
        elif place == "image":
            return [(a, b) for a in own for b in own if (a.array, a.j) == (b.array, b.j) and a.i != b.i]
        else:
            folder = getattr(target, place)
            path = next(p for p in shard_paths(folder) if p.name[:5] == Path(name).name[:5])
            others = surgery.chunks(path)
        return [(a, b) for a in own for b in others if a.array == b.array and a.stored != b.stored]

    return pairs


MOVES: dict[str, Callable[[Target, str], Pairs]] = {
    "chunks swapped, same size": _in_one_shard(True),
    "chunks swapped, other size": _in_one_shard(False),
    "chunks swapped, signed": _in_one_shard(True),
    "chunk of another shard": _from_elsewhere("shard"),
    "chunk of another shard, signed": _from_elsewhere("shard"),
    "chunk of another image, signed": _from_elsewhere("image"),
    "chunk of another view": _from_elsewhere("view"),
    "chunk of another view, signed": _from_elsewhere("view"),
    "chunk of another cache": _from_elsewhere("twin"),
    "chunk of another recipe, signed": _from_elsewhere("other"),
}


def _file_of(place: str) -> Callable[[Target, random.Random, str], Verdict]:
    """Return a damage that puts another shard's file in a shard's place: from the cache itself, or another."""

    def replace(target: Target, rng: random.Random, kind: str) -> Verdict:
        name = rng.choice(_shards(target))
        folder = getattr(target, place)
        own = place == "folder"
        found = [
            path
            for path in shard_paths(folder)
            if (path.name[:5] == Path(name).name[:5]) != own and path.name != Path(name).name
        ]
        data, size = rng.choice(found).read_bytes(), len(target.files[name])
        _write(target, name, data + bytes(max(0, size - len(data))))
        if signed := len(data) > size:  # so that the size is never all that tells
            surgery.sign_manifest(target.folder)
        return _judge(target, kind, CorruptFile, Mismatch, signed=signed)

    return replace


def _chunk_missing(target: Target, rng: random.Random, kind: str) -> Verdict:
    name = rng.choice(_shards(target))
    surgery.drop_chunk(target.folder / name, rng.choice(target.chunks[name]))
    surgery.sign_manifest(target.folder)
    return _judge(target, kind, CorruptFile, signed=True)


def _before_the_seal(target: Target, rng: random.Random, kind: str) -> Verdict:
    """Flip a bit of a chunk in a cache that is not sealed yet: the run that would seal it must not."""
    own = target.folder.with_name("unsealed")
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(target.folder, own)
    for name in (MANIFEST_NAME, INDEX_NAME):
        (own / name).unlink()
    name = rng.choice(_shards(target))
    chunk = rng.choice(target.chunks[name])
    spoilt = surgery.bits_flipped(target.files[name], rng.randrange(chunk.offset, chunk.end), 1 << rng.randrange(8))
    (own / name).write_bytes(spoilt)
    raised = None
    try:
        stub.run(target.dataset, own)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        raised = error
    if (own / MANIFEST_NAME).exists() and not (raised is None and stub.same(stub.contents(own), target.contents)):
        return Verdict(problem="a damaged cache was sealed", silent=True)
    verdict = exact_or([CorruptFile], raised, True)
    return Verdict(tuple(f"{kind}: {outcome}" for outcome in verdict.outcomes), verdict.problem, verdict.silent)


def _absent(target: Target, rng: random.Random, kind: str) -> Verdict:
    """Ask for an image that has no features."""
    cache = open_cache(target.folder)
    row = int(np.flatnonzero(~cache.present)[0])
    read = rng.choice((cache.read, cache.read_pooled))
    try:
        read([0, row], rng.randrange(cache.views))
    except BadInput:
        return Verdict((f"{kind}: BadInput",))
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        return Verdict(problem=f"{error!r}, expected BadInput")
    return Verdict(problem="features of an absent image", silent=True)


KINDS: dict[str, Callable[[Target, random.Random, str], Verdict]] = {
    "chunk bit": _chunk_bit,
    "digest bit": _table_bit,
    "table bit": _table_bit,
    "table bit, without cache.h5": _table_bit,
    "HDF5 metadata byte": _metadata_byte,
    "cache.h5 bit": _index_bit,
    "manifest bit": _manifest_bit,
    "file cut": _cut,
    "file grown": _grown,
    "file missing": _missing,
    **dict.fromkeys(MOVES, _moved),
    "file of another shard": _file_of("folder"),
    "file of another recipe": _file_of("other"),
    "file of the same names": _file_of("twin"),
    "file of other names": _file_of("renamed"),
    "chunk missing, signed": _chunk_missing,
    "chunks of another codec, signed": _relabelled,
    "damaged before the seal": _before_the_seal,
    "absent image": _absent,
}
