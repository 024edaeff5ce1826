"""CVAT for images 1.1: ``annotations.xml``, a mask a ``<mask>`` with row-major runs inside its own box.

CVAT's video form has no masks in every version; this one has since masks exist. ``object_id`` is an attribute of the label.
Sentences have no place and are left out; an import takes the label's name instead.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from egoray.core.masks import decode, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import bare
from egoray.formats.exchange import MaskVideo, by_clip, categories, locate, objects_of, read_sentences, reader, xywh
from egoray.schema import MaskRLE

FILE = "annotations.xml"


def write(out: Folder, videos: Sequence[MaskVideo]) -> dict[str, int]:
    """Write ``annotations.xml``; how many images and masks it has."""
    videos = by_clip(videos)
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    SubElement(task, "name").text = "egoray"
    SubElement(task, "size").text = str(sum(len(video.images) for video in videos))
    SubElement(task, "mode").text = "annotation"
    labels = SubElement(task, "labels")
    for name in categories(videos):
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name or "object"
        SubElement(label, "type").text = "mask"
        attribute = SubElement(SubElement(label, "attributes"), "attribute")
        for key, value in (("name", "object_id"), ("mutable", "False"), ("input_type", "text"), ("default_value", ""), ("values", "")):
            SubElement(attribute, key).text = value
    images = masks = 0
    for video in videos:
        height, width = video.size_hw
        for frame, path in zip(video.frame_names, video.images, strict=True):
            image = SubElement(root, "image", id=str(images), name=path, width=str(width), height=str(height))
            images += 1
            for item in video.objects:
                if rle := item.masks.get(frame):
                    SubElement(_mask(image, rle, item.category or "object"), "attribute", name="object_id").text = item.object_id
                    masks += 1
    ElementTree.indent(root)
    out.write_bytes(FILE, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    return {"images": images, "masks": masks}


def _mask(image: Element, rle: MaskRLE, label: str) -> Element:
    left, top, width, height = map(int, xywh(rle))
    inside = decode(rle)[top : top + height, left : left + width].ravel()
    edges = np.flatnonzero(np.diff(inside)) + 1
    runs = np.diff([0, *edges, inside.size]).tolist()
    if inside[0]:
        runs = [0, *runs]
    attributes = {"label": label, "source": "manual", "occluded": "0", "rle": ", ".join(map(str, runs))}
    box = {"left": str(left), "top": str(top), "width": str(width), "height": str(height), "z_order": "0"}
    return SubElement(image, "mask", attributes | box)


@reader
def read(source: str) -> list[MaskVideo]:
    """The videos of the file, or of the ``annotations.xml`` in a folder: a picture's folder is its video.

    Raises:
        FormatError: if it is missing, no CVAT XML, or a mask has no ``object_id`` or runs that do not fill its box.
    """
    folder, name = locate(source, FILE)
    where = f"{folder.uri}/{name}"
    data = folder.read_bytes(name)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # what entities expand to can fill the memory
        raise FormatError(f"{where}: declares entities, which CVAT never writes; refused")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise FormatError(f"{where}: not XML ({error})") from error
    of_video: dict[str, list[Element]] = {}
    for image in root.iter("image"):
        of_video.setdefault(posixpath.basename(posixpath.dirname(image.get("name", ""))) or "video", []).append(image)
    if not of_video:
        raise FormatError(f"{where}: has no <image>; export from CVAT as `CVAT for images 1.1`")
    videos = []
    for video_id, images in of_video.items():
        images.sort(key=lambda image: image.get("name", ""))
        try:
            size_hw = (int(images[0].attrib["height"]), int(images[0].attrib["width"]))
            masks: dict[str, dict[str, MaskRLE]] = {}
            names: dict[str, str] = {}
            for image in images:
                for element in image.iter("mask"):
                    object_id = next((a.text or "" for a in element.iter("attribute") if a.get("name") == "object_id"), "")
                    if not object_id:
                        raise FormatError(f"{where}, {image.get('name')}: a mask without the attribute object_id; number the objects")
                    masks.setdefault(object_id, {})[_frame(image)] = _read_mask(element, size_hw, f"{where}, {image.get('name')}")
                    names.setdefault(object_id, element.get("label", ""))
        except (KeyError, ValueError) as error:
            raise FormatError(f"{where}, {video_id}: a number is missing or malformed ({error})") from error
        objects = objects_of(masks, names)
        videos.append(
            MaskVideo(
                video_id=video_id,
                size_hw=size_hw,
                fps=1.0,
                frame_names=tuple(map(_frame, images)),
                images=tuple(image.get("name", "") for image in images),
                objects=objects,
                expressions=read_sentences(None, {video_id: objects})[video_id],
            )
        )
    return videos


def _frame(image: Element) -> str:
    return bare(posixpath.basename(image.get("name", "")))


def _read_mask(element: Element, size_hw: tuple[int, int], where: str) -> MaskRLE:
    left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in element.attrib["rle"].split(",")]
    if sum(runs) != width * height or min(runs) < 0 or left < 0 or top < 0 or top + height > size_hw[0] or left + width > size_hw[1]:
        raise FormatError(f"{where}: the runs of a mask do not fill its box, or the box leaves the picture")
    mask = np.zeros(size_hw, bool)
    values = np.arange(len(runs)) % 2 == 1
    mask[top : top + height, left : left + width] = np.repeat(values, runs).reshape(height, width)
    return encode(mask)
