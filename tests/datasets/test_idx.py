"""The MNIST format, byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from audit.datasets.idx import Idx, read_idx
from audit.parameters import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 4)).astype(np.uint8)
LABELS = (np.arange(12) % 3).astype(np.uint8)
CODES = {"|u1": 0x08, "|i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx(array: Any) -> bytes:
    """An array in the format: two zero bytes, type, number of dimensions, sizes, values, big-endian."""
    array = np.asarray(array)
    big = array.astype(array.dtype.newbyteorder(">"))
    header = struct.pack(">HBB", 0, CODES[big.dtype.str], big.ndim) + struct.pack(f">{big.ndim}I", *big.shape)
    return header + big.tobytes()


def folder(tmp_path: Path, *parts: str, suffix: str = "", pack: Any = bytes, dotted: bool = False) -> Path:
    for part in parts:
        rows = slice(0, 8) if part == "train" else slice(8, 12)
        for what, array in (("images-idx3", IMAGES[rows]), ("labels-idx1", LABELS[rows])):
            name = f"{part}-{what}-ubyte{suffix}"
            (tmp_path / (name.replace("-idx", ".idx") if dotted else name)).write_bytes(pack(idx(array)))
    return tmp_path


@pytest.mark.parametrize(
    "options", [{}, {"suffix": ".gz", "pack": gzip.compress}, {"suffix": ".gz"}, {"pack": gzip.compress}, {"dotted": True}]
)  # fmt: skip
def test_a_folder_with_both_parts_knows_its_members(options: Any, tmp_path: Path) -> None:
    found = Idx(path=str(folder(tmp_path, "train", "t10k", **options))).load(tmp_path, "m")
    assert found.train is not None
    assert (found.test.x == IMAGES[8:, None]).all()
    assert (found.train.x == IMAGES[:8, None]).all()
    assert (found.train.labels == LABELS[:8]).all()
    assert (found.test.x.dtype, found.spec.shape, found.spec.bounds) == (np.float32, (1, 5, 4), (0, 255))
    assert found.classes == ("0", "1", "2")


def test_a_folder_with_one_part_gives_plain_rows_that_a_split_may_divide(tmp_path: Path) -> None:
    folder(tmp_path, "train")
    assert Idx(path=".").load(tmp_path, "m").train is None
    divided = Idx(path=".", split={"test": 0.25}).load(tmp_path, "m")  # type: ignore[arg-type]
    assert divided.train is not None
    assert (len(divided.test), len(divided.train)) == (2, 6)


def test_two_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(idx(IMAGES))
    (tmp_path / "b").write_bytes(gzip.compress(idx(LABELS)))
    found = Idx(images="a", labels="b", classes=["cat", "dog", "owl", "elk"]).load(tmp_path, "m")  # type: ignore[arg-type]
    assert (found.test.x[:, 0] == IMAGES).all()
    assert found.classes == ("cat", "dog", "owl", "elk")
    for wrong in ({}, {"images": "a"}, {"path": ".", "images": "a", "labels": "b"}, {"path": ".", "labels": "b"}):
        with pytest.raises(ValidationError, match="either path, a folder, or both images and labels"):
            Idx(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["|u1", "|i1", ">i2", ">i4", ">f4", ">f8"])
def test_every_type_of_the_format(dtype: str, tmp_path: Path) -> None:
    array = np.arange(-6 if dtype != "|u1" else 0, 6).reshape(2, -1).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array))
    found = read_idx(tmp_path / "a")
    assert (found == array).all()
    assert found.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (idx(IMAGES)[:-1], "is cut short: 255 bytes, its header (12, 5, 4) asks for 256"),
        (idx(IMAGES)[:10], "is cut short"),
        (idx(IMAGES) + b"\0", "is longer than its header (12, 5, 4) says"),
        (b"\x89PNG\r\n\x1a\n", "is no IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x07\x01\0\0\0\0", "is no IDX file"),
        (b"\0\0", "is no IDX file"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "is cut short"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], "cannot be read: Compressed file ended"),
        (gzip.compress(idx(IMAGES), mtime=0)[:20] + b"damage", "cannot be read"),
        (b"", "is empty"),
        (idx(LABELS), "holds an array of shape (12,); images have (count, height, width)"),
        (idx(IMAGES[:0]), "holds an array of shape (0, 5, 4)"),
    ],
)
def test_one_line_says_what_is_wrong_with_a_file(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(idx(LABELS))
    with pytest.raises(UserError) as caught:
        Idx(images="a", labels="b").load(tmp_path, "m")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(idx(IMAGES))
    (tmp_path / "b").write_bytes(idx(LABELS[:5]))
    with pytest.raises(UserError, match=r"a holds 12 images, .*b holds 5 labels"):
        Idx(images="a", labels="b").load(tmp_path, "m")
    with pytest.raises(UserError, match="labels have"):
        Idx(images="a", labels="a").load(tmp_path, "m")
    with pytest.raises(UserError, match="holds no pair of IDX files"):
        Idx(path=".").load(tmp_path, "m")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES))
    with pytest.raises(UserError, match="has no counterpart of labels"):
        Idx(path=".").load(tmp_path, "m")
    (tmp_path / "c").write_bytes(idx(LABELS * 0))
    with pytest.raises(UserError, match="hold a single class, 0"):
        Idx(images="a", labels="c").load(tmp_path, "m")
    with pytest.raises(UserError, match="is a folder, a file is needed"):
        Idx(images=".", labels="c").load(tmp_path, "m")


def test_fewer_members_leave_the_others_to_the_population(tmp_path: Path) -> None:
    folder(tmp_path, "train", "t10k")
    whole, fewer = Idx(path=".").load(tmp_path, "m"), Idx(path=".", members=3).load(tmp_path, "m")
    assert whole.train is not None
    assert fewer.train is not None
    assert fewer.population is not None
    assert (len(fewer.test), len(fewer.train), len(fewer.population)) == (4, 3, 5)
    assert set(fewer.train.ids) | set(fewer.population.ids) == set(whole.train.ids)
    assert fewer.train.ids != whole.train.ids[:3], "a permutation, not the first rows of a sorted file"
    assert fewer.train.ids == Idx(path=".", members=3).load(tmp_path, "m").train.ids  # type: ignore[union-attr]
    assert Idx(path=".", members=8).load(tmp_path, "m").population is None


def test_fewer_members_join_a_population_that_is_there_already(tmp_path: Path) -> None:
    folder(tmp_path, "train")
    split: Any = {"test": 0.25, "population": 0.25}
    found = Idx(path=".", split=split, members=1).load(tmp_path, "m")
    assert found.train is not None
    assert found.population is not None
    assert (len(found.test), len(found.train), len(found.population)) == (2, 1, 5)
    assert len({*found.test.ids, *found.train.ids, *found.population.ids}) == 8
    everything = Idx(path=".").load(tmp_path, "m").test
    for row, label, name in zip(found.population.x, found.population.labels, found.population.ids, strict=True):
        place = everything.ids.index(name)
        assert (row == everything.x[place]).all()
        assert label == everything.labels[place]


def test_fewer_members_of_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="members: 3 of none: give the data a 'split'"):
        Idx(path=str(folder(tmp_path, "train")), members=3).load(tmp_path, "m")
