"""DICOM in every syntax and oddity against what was written, and against pydicom itself."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from clip_files import moving_frames, write_dicom
from feat_fed.data import ClipInfo, iter_frames, probe, read_clip
from feat_fed.data.reading.clip import Box
from feat_fed.errors import ClipError

FRAMES = moving_frames(12)
GREY = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def reason(path: Path) -> str:
    with pytest.raises(ClipError) as caught:
        read_clip(path)
    return caught.value.reason


def compressed(path: Path, syntax: UID) -> Path:
    dataset = pydicom.dcmread(write_dicom(path, FRAMES))
    dataset.compress(syntax)
    dataset.save_as(path)
    return path


def jpegs(frames: np.ndarray = FRAMES, **options: object) -> list[bytes]:
    coded = []
    for frame in frames:
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95, **options)
        coded.append(buffer.getvalue())
    return coded


def without(coded: bytes, marker: bytes) -> bytes:
    at = coded.index(marker)
    return coded[:at] + coded[at + 2 + int.from_bytes(coded[at + 2 : at + 4], "big") :]


def write_jpegs(
    path: Path, coded: list[bytes], pixels: bytes | None = None, **more: object
) -> Path:
    attributes: dict[str, object] = {"PhotometricInterpretation": "YBR_FULL_422", **more}
    data = encapsulate(coded) if pixels is None else pixels
    return write_dicom(path, FRAMES, syntax=JPEGBaseline8Bit, PixelData=data, **attributes)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
    ],
    ids=lambda syntax: syntax.name,
)
def test_uncompressed_syntaxes(tmp_path: Path, syntax: UID) -> None:
    path = tmp_path / "clip.dcm"
    dataset = pydicom.dcmread(write_dicom(tmp_path / "explicit.dcm", FRAMES))
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(
        path,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    window = read_clip(path, start_frame=2, stride_frames=4, num_frames=3)
    np.testing.assert_array_equal(window.frames_THWC, FRAMES[2:11:4])
    assert probe(path).transfer_syntax == str(syntax)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_windows_of_compressed_frames(tmp_path: Path, syntax: UID) -> None:
    path = compressed(tmp_path / "clip.dcm", syntax)
    window = read_clip(path, start_frame=1, stride_frames=3, num_frames=4)
    np.testing.assert_array_equal(window.frames_THWC, FRAMES[1:11:3])
    np.testing.assert_allclose(window.times_sec, [0.04, 0.16, 0.28, 0.40])


@pytest.mark.parametrize(
    "name",
    [
        *(
            "SC_rgb_jpeg",
            "SC_rgb_jpeg_gdcm",
            "SC_rgb_jpeg_dcmtk",
            "SC_rgb_jpeg_app14_dcmd",
            "examples_jpeg2k",
        ),
        *("SC_rgb_dcmtk_+eb+cr", "SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_jls_lossy_line"),
        *("SC_ybr_full_422_uncompressed", "SC_rgb_small_odd_big_endian", "GDCMJ2K_TextGBR"),
    ],
)
@pytest.mark.filterwarnings("ignore:Expected explicit VR")  # pydicom's, of its own file
def test_files_of_other_writers_equal_pydicom(name: str) -> None:
    path = SHIPPED / f"{name}.dcm"
    expected = pydicom.pixels.pixel_array(pydicom.dcmread(path))
    np.testing.assert_array_equal(read_clip(path).frames_THWC[0], expected)


def test_twelve_bit_jpeg_is_read() -> None:
    path = SHIPPED / "JPGExtended.dcm"
    stored = pydicom.pixels.pixel_array(pydicom.dcmread(path)).astype(float)
    assert np.abs(read_clip(path).frames_THWC[0, ..., 0] - stored * 255 / 4095).max() <= 0.51


@pytest.mark.parametrize(
    ("syntax", "expected"),
    [
        ("1.2.840.10008.1.2.4.110", "no decoder for this transfer syntax"),  # JPEG XL
        ("1.2.840.10008.1.2.4.112", "no decoder for this transfer syntax"),
        ("1.2.840.10008.1.2.8.1", "no decoder for this transfer syntax"),  # Deflated Image Frame
        ("1.2.840.10008.1.2.4.93", "no decoder for this transfer syntax"),
        ("1.2.3.4", "no decoder for this transfer syntax"),
        (str(HTJ2KLossless), "pixel data cannot be decoded"),  # has one, but these are none
    ],
)
def test_syntaxes_that_are_refused(tmp_path: Path, syntax: str, expected: str) -> None:
    dataset = pydicom.dcmread(write_jpegs(tmp_path / "jpeg.dcm", jpegs()))
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    path = tmp_path / "clip.dcm"
    dataset.save_as(path)
    written, wanted = (f"{uid:\0<24}".encode() for uid in (HTJ2KLossless, syntax))
    assert written in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(written, wanted))
    assert reason(path) == expected


def test_several_fragments_a_frame_without_a_table(tmp_path: Path) -> None:
    coded = jpegs()
    whole = read_clip(write_jpegs(tmp_path / "whole.dcm", coded)).frames_THWC
    split = encapsulate(coded, fragments_per_frame=3, has_bot=False)
    for pixels in (
        split,
        encapsulate(coded, fragments_per_frame=3),
        encapsulate(coded, has_bot=False),
    ):
        path = write_jpegs(tmp_path / "clip.dcm", coded, pixels)
        np.testing.assert_array_equal(read_clip(path).frames_THWC, whole)
        part = read_clip(path, start_frame=7, num_frames=2).frames_THWC
        np.testing.assert_array_equal(part, whole[7:9])


def test_offset_tables_that_lie_are_ignored(tmp_path: Path) -> None:
    coded = jpegs()
    whole = read_clip(write_jpegs(tmp_path / "whole.dcm", coded)).frames_THWC
    pixels = bytearray(encapsulate(coded))
    pixels[8 : 8 + 48] = struct.pack("<12L", *range(0, 96, 8))
    path = write_jpegs(tmp_path / "clip.dcm", coded, bytes(pixels))
    np.testing.assert_array_equal(read_clip(path).frames_THWC, whole)


def test_extended_offset_table(tmp_path: Path) -> None:
    coded = jpegs()
    pixels, offsets, lengths = encapsulate_extended(coded)
    path = write_jpegs(tmp_path / "clip.dcm", coded, pixels)
    dataset = pydicom.dcmread(path)
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    dataset.save_as(path)
    expected = read_clip(write_jpegs(tmp_path / "whole.dcm", coded)).frames_THWC
    np.testing.assert_array_equal(read_clip(path).frames_THWC, expected)


def test_frames_beyond_the_stated_number_and_trailing_items_are_left(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "raw.dcm", FRAMES, NumberOfFrames=10)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, FRAMES[:10])
    path = write_jpegs(tmp_path / "jpeg.dcm", jpegs(), NumberOfFrames=10)
    path.write_bytes(path.read_bytes() + bytes.fromhex("feffdde000000000feffdde000000000"))
    assert read_clip(path).frames_THWC.shape[0] == 10 == probe(path).num_frames
    path = compressed(tmp_path / "rle.dcm", RLELossless)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0012", b"IS\x02\x0010"))
    np.testing.assert_array_equal(read_clip(path).frames_THWC, FRAMES[:10])


def test_a_cut_file_is_refused_and_says_so(tmp_path: Path) -> None:
    for write in (write_dicom, lambda path, _: write_jpegs(path, jpegs())):
        path = write(tmp_path / "clip.dcm", FRAMES)
        path.write_bytes(path.read_bytes()[:-2000])
        for read in (read_clip, probe, lambda each: read_clip(each, num_frames=1)):
            with pytest.raises(ClipError, match="file is cut off"):
                read(path)


def test_one_frame_and_ten_thousand(tmp_path: Path) -> None:
    one = write_dicom(tmp_path / "one.dcm", FRAMES[:1])
    np.testing.assert_array_equal(read_clip(one).frames_THWC, FRAMES[:1])
    many = np.zeros((10_000, 4, 6, 3), np.uint8)
    many[:, 0, 0, 0], many[:, 0, 0, 1] = np.arange(10_000) % 256, np.arange(10_000) // 256
    path = write_dicom(tmp_path / "many.dcm", many)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, many)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pylibjpeg")
    dataset.save_as(path)
    window = read_clip(path, start_frame=9000, stride_frames=100, num_frames=10).frames_THWC
    np.testing.assert_array_equal(window, many[9000::100])


def test_a_probe_reads_only_what_it_needs(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "clip.dcm", np.zeros((200, 256, 256, 3), np.uint8))
    tracemalloc.start()
    assert probe(path).num_frames == 200
    read_clip(path, start_frame=150, num_frames=2)
    assert tracemalloc.get_traced_memory()[1] < 4e6  # of a file of 39 MB
    tracemalloc.stop()


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "RGB"])
def test_raw_colour_models(tmp_path: Path, photometric: str) -> None:
    """YBR_FULL_422 with all samples stored is a common lie; the length tells the truth."""
    stored = FRAMES if photometric == "RGB" else np.stack([rgb_to_ybr(each) for each in FRAMES])
    path = write_dicom(
        tmp_path / "c.dcm",
        FRAMES,
        PixelData=stored.tobytes(),
        PhotometricInterpretation=photometric,
    )
    assert np.abs(read_clip(path).frames_THWC.astype(int) - FRAMES).max() <= 3


def rgb_to_ybr(frame: np.ndarray) -> np.ndarray:
    """JFIF's equations."""
    return np.array(Image.fromarray(frame).convert("YCbCr"))


def test_half_the_chroma_of_raw_422(tmp_path: Path) -> None:
    flat = np.full_like(FRAMES, 90)
    flat[:, ::2] = (30, 90, 200)
    ybr = np.stack([rgb_to_ybr(each) for each in flat])
    stored = np.stack(
        [ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]], -1
    )
    path = write_dicom(
        tmp_path / "c.dcm",
        FRAMES,
        PixelData=stored.tobytes(),
        PhotometricInterpretation="YBR_FULL_422",
    )
    assert np.abs(read_clip(path).frames_THWC.astype(int) - flat).max() <= 3


@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("kind", ["jfif", "subsampled", "adobe"])
def test_a_jpeg_knows_its_colours_better(tmp_path: Path, stated: str, kind: str) -> None:
    coded = jpegs(subsampling="4:2:2" if kind == "subsampled" else "4:4:4")
    if kind != "jfif":
        coded = [without(each, b"\xff\xe0") for each in coded]
    if kind == "adobe":
        app14 = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
        coded = [each[:2] + app14 + each[2:] for each in coded]
    path = write_jpegs(tmp_path / "c.dcm", coded, PhotometricInterpretation=stated)
    expected = np.stack([np.array(Image.open(BytesIO(each))) for each in coded])
    assert np.abs(read_clip(path).frames_THWC.astype(int) - expected).max() <= 4  # two roundings


def test_rgb_of_sixteen_bits(tmp_path: Path) -> None:
    wide = (FRAMES.astype("<u2") << 4) + 7
    bits = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    path = write_dicom(tmp_path / "c.dcm", FRAMES, PixelData=wide.tobytes(), **bits)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, FRAMES)


def palette(entries: bytes, *, depth: int) -> dict[str, object]:
    luts: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1}
    for colour in ("Red", "Green", "Blue"):
        luts[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, depth]
        luts[f"{colour}PaletteColorLookupTableData"] = entries
    return luts


@pytest.mark.parametrize(
    ("entries", "depth", "little"),
    [
        ((np.arange(256) << 8).astype("<u2"), 16, True),
        ((np.arange(256) << 8).astype("<u2"), 16, False),
        (np.arange(256).astype("<u2"), 16, True),  # 8-bit values that say they have 16
        (np.arange(256).astype("<u2"), 8, True),  # 8-bit entries in 16-bit words
        (np.arange(256).astype("u1"), 8, True),
    ],
)
def test_palettes(tmp_path: Path, entries: np.ndarray, depth: int, little: bool) -> None:
    index = FRAMES[..., 0]
    raw = entries.tobytes() if little else entries.byteswap().tobytes()
    syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    luts = palette(raw, depth=depth)
    path = write_dicom(tmp_path / "c.dcm", FRAMES, syntax=syntax, PixelData=index.tobytes(), **luts)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, np.stack([index] * 3, -1))


def test_segmented_palette(tmp_path: Path) -> None:
    """A first entry, and a straight line from it to the last (PS3.3 C.7.9.2)."""
    segments = np.array([0, 1, 0, 1, 255, 255 << 8], "<u2").tobytes()
    luts = palette(b"", depth=16)
    for colour in ("Red", "Green", "Blue"):
        del luts[f"{colour}PaletteColorLookupTableData"]
        luts[f"Segmented{colour}PaletteColorLookupTableData"] = segments
    index = FRAMES[..., 0]
    path = write_dicom(tmp_path / "c.dcm", FRAMES, PixelData=index.tobytes(), **luts)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, np.stack([index] * 3, -1))


def test_palette_index_of_sixteen_bits(tmp_path: Path) -> None:
    index = FRAMES[..., 0].astype("<u2") * 200
    luts = palette(((np.arange(2**16) // 200) % 256 << 8).astype("<u2").tobytes(), depth=16)
    for colour in ("Red", "Green", "Blue"):
        luts[f"{colour}PaletteColorLookupTableDescriptor"] = [0, 0, 16]  # 0 means 65536
    bits = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    path = write_dicom(tmp_path / "c.dcm", FRAMES, PixelData=index.tobytes(), **bits, **luts)
    np.testing.assert_array_equal(read_clip(path).frames_THWC[..., 1], FRAMES[..., 0])


def table(entries: list[int], bits: int) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(entries), 0, bits]
    item.LUTData = np.array(entries, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("shown_by", "expected"),
    [
        ({}, lambda x: x),
        ({"WindowCenter": "100", "WindowWidth": "0"}, lambda x: x),  # no window at all
        ({"WindowCenter": ["64", "9"], "WindowWidth": ["128", "9"]}, lambda x: x * 255 / 127),
        ({"VOILUTSequence": table([1023 - x for x in range(256)], 10)}, lambda x: 255 - x / 4),
        (
            {"RescaleSlope": 2, "RescaleIntercept": -10, "WindowCenter": 118, "WindowWidth": 256},
            lambda x: 2 * x,
        ),
        ({"ModalityLUTSequence": table(list(range(0, 2**16, 2**8)), 16)}, lambda x: x),
    ],
)
def test_how_grey_is_shown(
    tmp_path: Path, photometric: str, shown_by: dict[str, object], expected: object
) -> None:
    grey = FRAMES[..., 0]
    attributes = {**GREY, "PhotometricInterpretation": photometric, **shown_by}
    path = write_dicom(tmp_path / "c.dcm", FRAMES, PixelData=grey.tobytes(), **attributes)
    want = np.clip(expected(grey.astype(float)), 0, 255)  # type: ignore[operator]
    want = 255 - want if photometric == "MONOCHROME1" else want
    assert np.abs(read_clip(path).frames_THWC[..., 2] - want).max() <= 1.01


def test_the_window_of_an_enhanced_object(tmp_path: Path) -> None:
    window, group = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 64, 128
    group.FrameVOILUTSequence = [window]
    path = write_dicom(
        tmp_path / "c.dcm",
        FRAMES,
        PixelData=FRAMES[..., 0].tobytes(),
        SharedFunctionalGroupsSequence=[group],
        **GREY,
    )
    want = np.clip(FRAMES[..., 0] * (255 / 127), 0, 255)
    assert np.abs(read_clip(path).frames_THWC[..., 0] - want).max() <= 1.01


def test_signed_grey_and_single_bits(tmp_path: Path) -> None:
    signed = (FRAMES[..., 0].astype(int) - 128).astype("i1")
    path = write_dicom(
        tmp_path / "c.dcm", FRAMES, PixelData=signed.tobytes(), PixelRepresentation=1, **GREY
    )
    np.testing.assert_array_equal(read_clip(path).frames_THWC[..., 0], FRAMES[..., 0])
    bits = FRAMES[..., 0] > 127
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    path = write_dicom(tmp_path / "b.dcm", FRAMES, PixelData=packed, **one, **GREY)
    np.testing.assert_array_equal(read_clip(path).frames_THWC[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize(
    ("attributes", "times_sec"),
    [
        ({"FrameTime": "50"}, 0.05 * np.arange(12)),
        ({"FrameTime": None, "CineRate": 20}, 0.05 * np.arange(12)),
        ({"FrameTime": None, "FrameTimeVector": [7, *[10, 20] * 5, 5]}, None),
        ({"FrameIncrementPointer": 0x00181065, "FrameTimeVector": [0, *[10, 20] * 5, 5]}, None),
        ({"FrameTime": None}, "unknown"),
        ({"FrameTime": "1e-307"}, "unknown"),
        ({"FrameTime": "20000"}, "unknown"),
        ({"FrameTime": None, "CineRate": 2000000000}, "unknown"),
        ({"FrameTime": None, "FrameTimeVector": [0, *["1e-307"] * 11]}, "unknown"),
        ({"FrameTime": None, "FrameTimeVector": [0, *["1e307"] * 11]}, "unknown"),
        (
            {"FrameTime": None, "CineRate": 0, "RecommendedDisplayFrameRate": 20},
            0.05 * np.arange(12),
        ),
        ({"FrameTime": None, "FrameTimeVector": [1, 2, 3]}, np.arange(12) * 0.0025),  # too short
    ],
)
def test_times(tmp_path: Path, attributes: dict[str, object], times_sec: object) -> None:
    clip = read_clip(write_dicom(tmp_path / "c.dcm", FRAMES, **attributes))
    if isinstance(times_sec, str):
        assert clip.times_sec is None and clip.fps is None
        return
    uneven = np.cumsum([0, *[0.010, 0.020] * 5, 0.005])
    np.testing.assert_allclose(clip.times_sec, uneven if times_sec is None else times_sec)


def region(box: tuple[int, int, int, int], *, spatial: int = 1, kind: int = 1) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = spatial, kind
    item.RegionLocationMinX0, item.RegionLocationMinY0 = box[:2]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box[2:]
    return item


def test_what_a_header_tells(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "c.dcm",
        FRAMES,
        BurnedInAnnotation="YES",
        StudyInstanceUID="1.2.3",
        SequenceOfUltrasoundRegions=[
            region((4, 6, 40, 30)),
            region((20, 10, 500, 500), kind=2),
            region((100, 100, 200, 200)),  # outside the image
            region((30, 30, 10, 10)),  # inside out
            region((0, 0, 9, 9), spatial=3, kind=3),  # a Doppler trace
            region((0, 0, 9, 9), kind=0xF),  # a colour bar
        ],
    )
    info = probe(path)
    assert info.regions == (Box(4, 6, 41, 31), Box(20, 10, 64, 48))
    assert (info.kind, info.burned_in, info.study_key) == ("dicom", True, "1.2.3")
    assert "1.2.3" not in repr(info)
    plain = probe(write_dicom(tmp_path / "p.dcm", FRAMES))
    assert isinstance(plain, ClipInfo) and plain.burned_in is None and plain.regions == ()


def test_a_header_without_pixels_costs_a_reason(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "c.dcm", FRAMES)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.FloatPixelData = np.zeros(FRAMES.size, "<f4").tobytes()
    dataset.save_as(path)
    assert reason(path) == "sample depth not supported"


def test_a_picture_of_gigabytes_in_a_few_bytes(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(FRAMES[0]).save(buffer, "JPEG2000")
    huge = bytearray(buffer.getvalue())
    at = huge.index(b"\xff\x4f\xff\x51") + 8
    huge[at : at + 8] = struct.pack(">LL", 2**31, 2**31)
    pixels = encapsulate([bytes(huge)] * 12)
    path = write_dicom(tmp_path / "c.dcm", FRAMES, syntax=JPEG2000Lossless, PixelData=pixels)
    assert reason(path) == "frame size is not the header's"
    tall = bytearray(jpegs()[0])
    at = tall.index(b"\xff\xc0") + 5
    tall[at : at + 4] = b"\xff\xff\xff\xff"
    assert reason(write_jpegs(tmp_path / "c.dcm", [bytes(tall)] * 12)) == (
        "frame size is not the header's"
    )


def test_runs_that_look_like_a_codestream(tmp_path: Path) -> None:
    """FF 4F FF 51 begins a JPEG 2000 picture, and is four bytes of two levels in RLE."""
    frames = np.repeat(np.array([0x4F, 0x51], np.uint8), 2).repeat(3).reshape(1, 1, 4, 3)
    frames = np.ascontiguousarray(np.tile(frames, (2, 4, 1, 1)))
    dataset = pydicom.dcmread(write_dicom(tmp_path / "c.dcm", frames))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "c.dcm")
    assert b"\xff\x4f\xff\x51" in (tmp_path / "c.dcm").read_bytes()
    np.testing.assert_array_equal(read_clip(tmp_path / "c.dcm").frames_THWC, frames)


def test_a_deflate_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from feat_fed.data.reading import part10

    monkeypatch.setattr(part10, "_MAX_INFLATED_BYTES", 2**20)
    path = write_dicom(tmp_path / "c.dcm", FRAMES)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert read_clip(path).frames_THWC.shape == FRAMES.shape
    length = pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    head = path.read_bytes()[: 132 + 12 + length]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(head + deflater.compress(bytes(2**22)) + deflater.flush())
    assert reason(path) == "deflated data are too large"


def test_a_length_of_gigabytes_is_not_allocated(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "c.dcm", FRAMES, PatientComments="x" * 40)
    data = path.read_bytes()
    at = data.index(b"\x10\x00\x00\x40")
    huge = data[: at + 4] + b"UN\0\0" + struct.pack("<L", 0xFFFFFFF0) + data[at + 8 :]
    path.write_bytes(huge)
    tracemalloc.start()
    assert reason(path) == "DICOM object without pixel data"
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_frames_of_an_iterator_can_be_left(tmp_path: Path) -> None:
    frames = iter_frames(write_dicom(tmp_path / "c.dcm", FRAMES), start_frame=3, stride_frames=2)
    np.testing.assert_array_equal(next(frames), FRAMES[3])
    np.testing.assert_array_equal(next(frames), FRAMES[5])
