"""The function of `textseg segment`: results as files; it imports torch only when called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from textseg.errors import PartialError, check_at_least, first_line
from textseg.output import output_folder, writing
from textseg.runs.calibration import Temperature, Threshold


def segment(
    image: str,
    text: str | None = None,
    *,
    ckpt_path: str | list[str],
    model: str | None = None,
    output: str = "segmented",
    root: str | None = None,
    probabilities: bool = False,
    overlays: bool = True,
    image_size: int | list[int] | None = None,
    batch_size: int = 8,
    device: str = "auto",
    tta: Literal["none", "flip"] = "none",
    threshold: Threshold = 0.5,
    temperature: Temperature = 1.0,
    tile_size: int | None = None,
    tile_overlap: float | None = None,
    mirror_text: Callable[[str], str | None] | None = None,
    slices: str = "all",
    window: str | None = None,
    channel: int | None = None,
    volume_format: Literal["nifti", "dicom-seg"] = "nifti",
    open_volumes: Callable[..., Any] | None = None,
) -> Path:
    """Segment images or volumes by what a text names: one, a folder of them, or a table of images.

    Writes masks/ (PNG of 0 and 255, at each image's own size), overlays/ and, if asked,
    probabilities/. Files are named <image stem>__<row>.png; rows count from 0, in a folder by name.
    averaging.json says what logits were averaged over, and the threshold. Of several images or
    volumes, one that cannot be read or segmented does not end the others: left_out.csv (of volumes,
    volumes.json) names it.

    Of volumes it writes volumes/ (NIfTI of 0 and 1 on the source's own grid, or DICOM SEG),
    overlays/ of every slice, found.csv (area and volume by slice) and volumes.json. Slices are
    axial, anterior above, the patient's left on the left.

    Args:
        image: an image; a folder, of which all images are taken; a table (.csv with , or ;, .xlsx,
            .jsonl) with the columns image and text; a NIfTI volume, a DICOM file, or the folder of
            a DICOM series, of a study's series in folders of their own, or of several volumes. Of a
            folder, masks that lie beside their images (a_mask.png) and volumes of labels are left
            out with a warning.
        text: what to segment: one caption or expression for all images, where no table gives each
            its own. An image-only network needs none.
        ckpt_path: a checkpoint that `textseg fit` wrote, such as
            runs/<config>/<time>/checkpoints/best.ckpt, or the folder of textseg export or
            textseg card; or several, [A,B], of networks that were trained on the same data: an
            ensemble, whose logits are averaged.
        model: class of a network of your own, such as my_package.MyNet, whose module is imported;
            the suite's own are known.
        output: folder for the results; where it exists, <output>_2 and so on is taken. One that an
            ended command left, which the file INCOMPLETE in it says, is gone on with by a command
            of the same images, texts and settings (of volumes, begun anew).
        root: folder that a table's paths start from; by default the table's own.
        probabilities: also write the probability of each pixel as a 16-bit PNG: value / 65535.
        overlays: write overlays/, pictures with what was outlined; false saves their time.
        image_size: side of the network's square input, or [height, width]; by default that of the
            config.yaml in the checkpoint's run.
        batch_size: images in one forward pass.
        device: auto, cpu, cuda, cuda:1, mps and so on.
        tta: flip also runs the mirrored image, with left and right exchanged in its text, and
            averages the logits of the two, in twice the time. Sides are read in the language that
            the training was set to; a text whose sides are not surely read is not mirrored, and
            that is said.
        threshold: probability above which a pixel is outlined; best takes the one that textseg
            calibrate found on the validation rows of the run.
        temperature: what logits are divided by before they become probabilities; fitted takes what
            textseg calibrate found. At threshold 0.5 it moves no mask.
        tile_size: images (of volumes, slices) with more pixels on a side are seen through
            overlapping tiles of so many, at their own resolution, each resized as a whole training
            image is. For networks trained on such pieces, and texts that name no place in the
            image, which every tile would take for a place of its own.
        tile_overlap: share of a tile that the next one covers too, 0.25 unless given.
        mirror_text: rewrites a text for the mirrored image, or gives None where it cannot; needed
            for tta by a network that reads words.
        slices: of volumes, all, or numbers and ranges such as 12,40-60; they count from 0 at the
            patient's feet.
        window: of volumes, what becomes black and white: abdomen, bone, brain, lung or mediastinum;
            center and width, as in 40,400; percentiles of each volume; or header, the DICOM file's
            own. By default that of the set that `textseg data slice` made for the training, and
            else the header's.
        channel: of NIfTI volumes with several, the one that is taken, counted from 0.
        volume_format: what the masks of volumes are written as; dicom-seg refers to the DICOM files
            and needs the package highdicom.
        open_volumes: opens volumes; the command line gives datamodules.volumes.opened.Volumes.

    Returns:
        the folder that was written.

    Raises:
        UserError: the table, a text or the checkpoint cannot be used, or no image or volume can.
            All of that is checked before the first mask is written; of several volumes, only what
            they are.
        PartialError: some images or volumes could not be segmented; the results of the others are
            there.
    """
    from textseg.runs.outputs import averaging_of, write_averaging
    from textseg.segment.network import load
    from textseg.segment.rows import check_texts, read_rows, unreadable
    from textseg.segment.volumes import (
        VolumeSettings,
        check_no_picture_settings,
        check_no_volume_settings,
        holds_volumes,
        open_all,
        segment_volumes,
    )
    from textseg.segment.written import left_of, work_of, write_each, write_left_out

    check_at_least("batch_size", batch_size, 1)
    of_volumes = VolumeSettings(slices, window, channel, volume_format)
    of_network: dict[str, Any] = {"image_size": image_size, "device": device, "tta": tta}
    of_network |= {"threshold": threshold, "temperature": temperature}
    of_network |= {"tile_size": tile_size, "tile_overlap": tile_overlap}
    loaded = partial(load, ckpt_path, model=model, mirror_text=mirror_text, **of_network)
    if holds_volumes(path := Path(image).expanduser()):
        check_no_picture_settings(path, root=root, probabilities=probabilities)
        first = ckpt_path if isinstance(ckpt_path, str) else ckpt_path[0]
        volumes = open_all(path, of_volumes, open_volumes, first)
        of_results: dict[str, Any] = {"slices": slices, "overlays": overlays}
        return segment_volumes(volumes, text, loaded, output, batch_size=batch_size, **of_results)
    check_no_volume_settings(image, of_volumes)
    listed = list(read_rows(Path(image), text, root))
    left_out = unreadable(listed)
    rows = [row for row in listed if row.image not in left_out]
    if not rows:
        raise left_out[listed[0].image]
    net = loaded()
    if net.takes_text:
        check_texts(rows)
    kinds = ("masks", *["overlays"] * overlays, *["probabilities"] * probabilities)
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path
    averaging = averaging_of(net.model, [])
    work = work_of(rows, paths, net.image_size, kinds, averaging)
    target = Path(output).expanduser().resolve()
    with output_folder(target, work, goes_on=True) as claimed:
        folder = claimed.path
        for name in kinds:
            with writing(folder / name):
                (folder / name).mkdir(exist_ok=True)
        write_averaging(folder, net.model, [row.text or "" for row in rows])
        left = rows
        if claimed.goes_on:
            left = left_of(rows, folder, kinds, batch_size)
            print(f"goes on in {folder}: {len(rows) - len(left)} of {len(rows)} are there")
        left_out |= write_each(net, left, folder, kinds, batch_size)
        if left_out:
            write_left_out(folder, left_out)
    if left_out:
        path, error = next(iter(left_out.items()))
        if all(row.image in left_out for row in listed):
            raise error
        raise PartialError(
            f"{len(left_out)} images were left out, first {path}: {first_line(error)}",
            f"the others are in {folder}; left_out.csv there names each with its reason",
            folder,
        )
    return folder
