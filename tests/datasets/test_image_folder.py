"""Image files in folders: three ways to label them, and the file's name in every complaint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from audit.data import AuditData
from audit.datasets.image_folder import ImageFolder
from audit.parameters import UserError

RNG = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> np.ndarray[Any, Any]:
    """A random image of (height, width), stored without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    pixels = RNG.integers(0, 256, (*size, *channels)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def load(folder: Path, **parameters: Any) -> AuditData:
    return ImageFolder(path=str(folder), **parameters).load(folder, "pictures")


def refusal(folder: Path, **parameters: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, **parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_subfolder_is_a_class(tmp_path: Path) -> None:
    cats = [picture(tmp_path / "cat" / f"{i}.png") for i in range(2)]
    dog = picture(tmp_path / "dog" / "deeper" / "a.BMP")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "empty").mkdir()
    found = load(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.test.labels.tolist() == [0, 0, 1]
    assert (found.test.x == np.stack([*cats, dog]).transpose(0, 3, 1, 2)).all()
    (field,) = found.spec.fields
    assert (field.kind, field.shape, field.bounds) == ("image", (3, 6, 4), (0, 255))
    assert found.test.x.dtype == np.float32
    assert "subfolders without images: empty" in found.notes


def test_classes_may_be_declared(tmp_path: Path) -> None:
    picture(tmp_path / "7" / "a.png")
    picture(tmp_path / "10" / "a.png")
    assert load(tmp_path).classes == ("7", "10")
    counted = load(tmp_path, classes=20)
    assert (len(counted.classes), counted.test.labels.tolist()) == (20, [10, 7])
    assert load(tmp_path, classes=["10", "7", "3"]).test.labels.tolist() == [0, 1]
    assert "hold '10', not among the 8 declared classes" in refusal(tmp_path, classes=8)


def test_a_pattern_reads_labels_from_names(tmp_path: Path) -> None:
    for name in ("photo_00_007.png", "photo_01_12.png", "other_1.png", "deep/photo_02_7.png"):
        picture(tmp_path / name)
    found = load(tmp_path, pattern=r"photo_\d+_(?P<label>\d+)\.png", classes=20)
    assert found.test.labels.tolist() == [7, 12]
    assert "2 of 4 images do not match the pattern and are left out" in found.notes
    assert load(tmp_path, pattern=r"(.*/)?photo_\d+_(?P<label>\d+)\.png").classes == ("7", "12")
    assert "none of 4 images matches the pattern 'x(?P<label>.)'; one is 'deep/photo_02_7.png'" in refusal(
        tmp_path, pattern="x(?P<label>.)"
    )
    assert "gives 'photo_00_007.png' no label" in refusal(tmp_path, pattern=r"photo_00(?P<label>\d*)_007.png")
    for wrong, words in (("(", "is no regular expression"), (r"\d+", "needs a group named label")):
        with pytest.raises(ValidationError, match=words):
            ImageFolder(path=".", pattern=wrong)
    with pytest.raises(ValidationError, match="give one of them"):
        ImageFolder(path=".", pattern="(?P<label>.)", labels="t.csv")


def test_a_table_labels_files(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.png"):
        picture(tmp_path / "images" / name)
    table = tmp_path / "images" / "labels.csv"

    def read(text: str) -> AuditData:
        table.write_text(text)
        return load(tmp_path / "images", labels="labels.csv")

    found = read("label,file\ndog, sub/a.png\ncat,b.png\n")
    assert (found.classes, found.test.labels.tolist()) == (("cat", "dog"), [1, 0])
    for text, words in (
        ("file,kind\nb.png,cat\n", "the columns file and label are needed"),
        ("file,label\nc.png,cat\n", "data row 1: .*c.png does not exist"),
        ("file,label\nb.png,cat\n../x.png,dog\n", "data row 2: '../x.png' is no file below"),
        ("file,label\n/b.png,cat\n", "is no file below"),
        ("file,label\n,cat\n", "is no file below"),
        ("file,label\nb.png,\n", "'b.png' has no label"),
        ("file,label\n", "holds a header alone"),
        ("file,label\nb.png,cat\n", "a single class, 'cat'"),
    ):
        with pytest.raises(UserError, match=words):
            read(text)


def test_size_and_mode(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", (6, 4))
    picture(tmp_path / "b" / "2.png", (8, 8))
    assert "2.png is 8 x 8, 1.png is 6 x 4: declare 'size'" in refusal(tmp_path)
    found = load(tmp_path, size=(3, 5))
    assert found.spec.shape == (3, 3, 5)
    with Image.open(tmp_path / "a" / "1.png") as image:
        expected = np.asarray(image.resize((5, 3), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert (found.test.x[0] == expected).all()
    assert load(tmp_path, size=7).spec.shape == (3, 7, 7)
    grey = load(tmp_path, size=7, mode="L")
    assert grey.spec.shape == (1, 7, 7)
    assert not (grey.test.x == load(tmp_path, size=7).test.x[:, :1]).all()


def test_other_kinds_of_pixels(tmp_path: Path) -> None:
    rgba = picture(tmp_path / "a" / "1.png", mode="RGBA")
    grey = picture(tmp_path / "b" / "2.png", mode="L")
    found = load(tmp_path)
    assert (found.test.x[0] == rgba[..., :3].transpose(2, 0, 1)).all()
    assert (found.test.x[1] == grey).all()
    Image.fromarray(np.arange(24, dtype=np.uint16).reshape(6, 4) * 2000).save(tmp_path / "a" / "deep.png")
    assert "deep.png has pixels of mode I" in refusal(tmp_path)


def test_the_rows_are_in_the_order_of_their_paths_and_a_limit_reads_no_further(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/10.png", "a/2.png"):
        picture(tmp_path / name)
    whole = load(tmp_path)
    assert whole.test.labels.tolist() == [0, 0, 1]
    (tmp_path / "b" / "1.png").write_bytes(b"corrupt")
    first = load(tmp_path, limit=2)
    assert first.test.ids == whole.test.ids[:2]
    assert first.classes == ("a", "b")


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "huge", "flipped"])
def test_a_damaged_image_is_named(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a" / "fine.png")
    bad = tmp_path / "b" / "bad.png"
    picture(bad, (40, 40))
    content = bad.read_bytes()
    if damage == "huge":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    bad.write_bytes(
        {
            "text": b"no image",
            "cut": content[: len(content) // 2],
            "empty": b"",
            "huge": content,
            "flipped": content[:60] + bytes(40) + content[100:],
        }[damage]
    )
    message = refusal(tmp_path, size=4)
    assert "bad.png" in message
    assert ("too large" if damage == "huge" else "cannot be read") in message


def test_folders_without_what_is_needed(tmp_path: Path) -> None:
    assert "holds no subfolder with images" in refusal(tmp_path)
    assert "holds no images" in refusal(tmp_path, pattern="(?P<label>.)")
    picture(tmp_path / "a.png")
    assert "declare 'labels' or 'pattern'" in refusal(tmp_path)
    assert "is a file, a folder is needed" in refusal(tmp_path / "a.png")
    assert "does not exist" in refusal(tmp_path / "absent")
    picture(tmp_path / "only" / "a.png")
    assert "a single class, 'only'" in refusal(tmp_path)


def test_the_photographs_of_foolbox() -> None:
    pytest.importorskip("foolbox")
    found = ImageFolder(
        path="package:foolbox/data", pattern=r"imagenet_\d+_(?P<label>\d+)\.jpg", classes=1000, size=224
    ).load(Path(), "photographs")
    assert found.test.x.shape == (20, 3, 224, 224)
    assert (len(found.classes), found.test.labels[0], found.test.labels[-1]) == (1000, 243, 305)
    assert (found.test.x.min(), found.test.x.max()) == (0, 255)
